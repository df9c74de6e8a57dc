package fedmeter.client;

import fedmeter.client.PowerSource.UnavailableException;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.function.Supplier;

/**
 * What Android's BatteryManager and its sticky broadcast ACTION_BATTERY_CHANGED tell at one moment. Constants are those
 * of https://developer.android.com/reference/android/os/BatteryManager, so that nothing of Android is needed here.
 */
public final class BatteryState {
    /** Asks the phone. Throws UnavailableException where it cannot be asked. */
    @FunctionalInterface
    public interface Source {
        BatteryState now() throws UnavailableException;
    }

    private static final List<String> STATUSES =
            Arrays.asList("UNKNOWN", "CHARGING", "DISCHARGING", "NOT_CHARGING", "FULL"); // from 1 on
    private static final Map<Integer, String> PLUGGED = Map.of(0, "UNPLUGGED", 1, "PLUGGED_AC", 2, "PLUGGED_USB",
            4, "PLUGGED_WIRELESS", 8, "PLUGGED_DOCK");
    private static final long MIN_CHARGE_UAH = 1_001; // a gauge without a counter gives 0 or 1000

    private final String status;
    private final String plugged;
    private final OptionalLong voltage;
    private final OptionalLong current;
    private final OptionalLong chargeUah;
    private final OptionalLong energyNwh;

    /**
     * As Android gives them: extras {@code status}, {@code plugged} and {@code voltage} of the broadcast, and the
     * properties CURRENT_NOW, CHARGE_COUNTER and ENERGY_COUNTER. A property that a phone has not is 0 or the least
     * number of its type; an extra that is not there should be -1.
     */
    public BatteryState(int status, int plugged, int voltage, int current, int chargeUah, long energyNwh) {
        this.status = status >= 1 && status <= STATUSES.size() ? STATUSES.get(status - 1) : "UNKNOWN";
        this.plugged = PLUGGED.getOrDefault(plugged, "PLUGGED_" + plugged);
        this.voltage = voltage < 0 ? OptionalLong.empty() : OptionalLong.of(voltage);
        this.current = property(current, Integer.MIN_VALUE);
        this.chargeUah = chargeUah < MIN_CHARGE_UAH ? OptionalLong.empty() : OptionalLong.of(chargeUah);
        this.energyNwh = energyNwh <= 0 ? OptionalLong.empty() : property(energyNwh, Long.MIN_VALUE);
    }

    private static OptionalLong property(long value, long unsupported) {
        return value == 0 || value == unsupported ? OptionalLong.empty() : OptionalLong.of(value);
    }

    /** Only a battery that discharges with nothing plugged in tells what its phone draws. */
    void checkDischarging() throws UnavailableException {
        if (status.equals("CHARGING") || !plugged.equals("UNPLUGGED")) {
            throw new UnavailableException("charging: plugged is " + plugged + ", status is " + status);
        }
        if (!status.equals("DISCHARGING")) {
            throw new UnavailableException("not discharging: status is " + status);
        }
    }

    long current() throws UnavailableException {
        return current.orElseThrow(missing("this phone tells no current"));
    }

    double voltageV() throws UnavailableException {
        return Gauge.volts(voltage.orElseThrow(missing("this phone tells no voltage")));
    }

    /** What is left in the battery by its charge counter. */
    long chargeUah() throws UnavailableException {
        return chargeUah.orElseThrow(missing("this phone counts no charge"));
    }

    /** What is left in the battery by its energy counter. */
    long energyNwh() throws UnavailableException {
        return energyNwh.orElseThrow(missing("this phone counts no energy"));
    }

    boolean countsCharge() {
        return chargeUah.isPresent();
    }

    boolean countsEnergy() {
        return energyNwh.isPresent();
    }

    /** All that changes while a battery discharges. */
    List<OptionalLong> saying() {
        return Arrays.asList(voltage, current, chargeUah, energyNwh);
    }

    private static Supplier<UnavailableException> missing(String why) {
        return () -> new UnavailableException(why);
    }
}
