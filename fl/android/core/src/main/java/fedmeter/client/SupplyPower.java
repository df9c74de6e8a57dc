package fedmeter.client;

import java.io.IOException;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;
import java.util.stream.Collectors;

/**
 * What a laptop, or a phone whose files may be read, draws from its batteries by Linux's power_supply class: the Java
 * twin of {@code profiler/sensors/battery.py}, but for its rails of energy and for readings that are allowed while
 * charging.
 * Android lets no app read these files since Android 8; {@link ManagerPower} is for those.
 */
public final class SupplyPower extends BatteryPower {
    /** Where the class is on a machine of its own. */
    public static final Path FOLDER = Paths.get("/sys/class/power_supply");

    private static final double POWER_STEP_W = 0.01; // Smart Battery Data Specification 1.1: 10 mW

    private final Path folder;
    private List<Cell> cells = List.of();
    private List<Supply> chargers = List.of();

    /** One battery as it was found: by which of its files it answers, and in which unit. */
    private static final class Cell {
        private final Supply supply;
        private final boolean isPower;
        private final Gauge.Unit unit;
        private final double stepW;
        private final Gauge.Stillness stillness = new Gauge.Stillness();

        private Cell(Supply supply, boolean isPower, Gauge.Unit unit, double stepW) {
            this.supply = supply;
            this.isPower = isPower;
            this.unit = unit;
            this.stepW = stepW;
        }
    }

    /** {@code unit} as in {@link BatteryPower}. */
    public SupplyPower(Path folder, Clock clock, Optional<String> unit) {
        super(clock, unit);
        this.folder = folder;
    }

    /** Whether there is a battery here whose state may be read, whatever it says. */
    boolean canBeRead() {
        try {
            for (Supply supply : Supply.batteries(Supply.all(folder))) {
                supply.text("status");
                cell(supply);
                return true;
            }
            return false;
        } catch (IOException | UnavailableException unreadable) {
            return false;
        }
    }

    @Override
    public synchronized String rail() {
        return cells.size() == 1 ? cells.get(0).supply.name : "battery";
    }

    @Override
    public synchronized double resolutionW() {
        return cells.stream().mapToDouble(cell -> cell.stepW).sum();
    }

    /** The sum of all batteries. Not known where one of them does not tell: a smaller sum would be wrong. */
    @Override
    public synchronized double powerW() throws UnavailableException {
        try {
            return cells.isEmpty() ? probed() : drawn(cells, chargers);
        } catch (IOException unreadable) {
            throw new UnavailableException(unreadable.getMessage());
        }
    }

    /** Looks for batteries until there are some that tell what the device draws; those stay, with their units. */
    private double probed() throws IOException, UnavailableException {
        List<Supply> supplies = Supply.all(folder);
        List<Supply> found = Supply.batteries(supplies);
        if (found.isEmpty()) {
            throw new UnavailableException("there is no battery below " + folder);
        }
        List<Cell> probed = new ArrayList<>();
        for (Supply supply : found) {
            probed.add(cell(supply));
        }
        List<Supply> feeding = Supply.chargers(supplies);
        double powerW = drawn(probed, feeding);
        cells = probed;
        chargers = feeding;
        return powerW;
    }

    private Cell cell(Supply supply) throws IOException, UnavailableException {
        if (supply.hasNumber("power_now")) {
            return new Cell(supply, true, Gauge.Unit.UA, POWER_STEP_W);
        }
        if (supply.hasNumber("current_now") && supply.hasNumber("voltage_now")) {
            double stepW = Gauge.CURRENT_STEP_A * Math.ceil(Gauge.volts(supply.number("voltage_now")));
            return new Cell(supply, false, told.orElse(unit(supply)), stepW);
        }
        throw new UnavailableException(supply.name + " has neither power_now, nor both current_now and voltage_now");
    }

    private static Gauge.Unit unit(Supply supply) throws IOException {
        long current = supply.number("current_now");
        return supply.isAcpi() || current == 0 ? Gauge.Unit.UA : Gauge.Unit.guessed(current);
    }

    private double drawn(List<Cell> those, List<Supply> feeding) throws IOException, UnavailableException {
        List<String> statuses = new ArrayList<>();
        for (Cell cell : those) {
            statuses.add(cell.supply.text("status"));
        }
        checkDischarging(those, statuses, feeding);
        double sumW = 0;
        for (int i = 0; i < those.size(); i++) {
            Cell cell = those.get(i);
            double powerW = powerW(cell);
            if (powerW != 0 && !statuses.get(i).equals("Discharging")) {
                throw new UnavailableException(
                        cell.supply.name + ": " + powerW + " W while its driver says " + statuses.get(i));
            }
            if (powerW != 0) {
                cell.stillness.check(
                        List.of(powerW, said(cell, "voltage_now"), said(cell, "energy_now")), clock.nanos());
            }
            sumW += powerW;
        }
        if (sumW == 0) { // a device that runs draws something
            throw new UnavailableException("0.0 W while its driver says Discharging");
        }
        return sumW;
    }

    private static void checkDischarging(List<Cell> those, List<String> statuses, List<Supply> feeding)
            throws UnavailableException {
        List<String> says = new ArrayList<>();
        for (int i = 0; i < those.size(); i++) {
            says.add(those.get(i).supply.name + " says " + statuses.get(i));
        }
        String said = String.join(", ", says);
        String connected = feeding.stream().filter(Supply::isOnline).map(one -> one.name)
                .collect(Collectors.joining(" and "));
        if (!connected.isEmpty() || statuses.contains("Charging")) {
            String by = connected.isEmpty() ? "a charger" : connected;
            throw new UnavailableException("charging: " + by + " may feed the device, " + said);
        }
        if (!statuses.contains("Discharging")) {
            throw new UnavailableException("not discharging: " + said);
        }
    }

    private double powerW(Cell cell) throws IOException, UnavailableException {
        double powerW = cell.isPower
                ? Math.abs(cell.supply.number("power_now")) / 1e6
                : Gauge.watts(cell.supply.number("current_now"), cell.unit, told.isPresent(),
                        Gauge.volts(cell.supply.number("voltage_now")));
        if (powerW > (cell.supply.isAcpi() ? Gauge.ACPI_MAX_POWER_W : Gauge.PHONE_MAX_POWER_W)) {
            throw new UnavailableException(cell.supply.name + ": " + powerW + " W are more than a battery gives");
        }
        return powerW;
    }

    private static String said(Cell cell, String attribute) {
        try {
            return cell.supply.text(attribute);
        } catch (IOException silent) {
            return "";
        }
    }
}
