package fedmeter.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import fedmeter.client.BatteryCases.Reading;
import fedmeter.client.PowerSource.UnavailableException;
import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.Random;
import java.util.stream.Collectors;
import java.util.stream.Stream;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Both battery sources, by the table of cases that Python's are tested by, and by what only they refuse. */
public final class BatteryTest {
    private static final List<String> STATUSES =
            Arrays.asList("", "UNKNOWN", "CHARGING", "DISCHARGING", "NOT_CHARGING", "FULL");
    private static final Map<String, Integer> PLUGGED =
            Map.of("UNPLUGGED", 0, "PLUGGED_AC", 1, "PLUGGED_USB", 2, "PLUGGED_WIRELESS", 4);

    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    private final FakeClock clock = new FakeClock();
    private BatteryState state;

    @Test
    public void filesAreBelievedAsByPython() throws IOException {
        String file = "power_supply_cases.txt";
        Map<String, String> names = BatteryCases.definitions(file);
        Map<String, List<Reading>> cases = BatteryCases.read(file);
        assertTrue(cases.size() > 30);
        for (Map.Entry<String, List<Reading>> one : cases.entrySet()) {
            Path supplies = folder.newFolder().toPath();
            PowerSource source = new SupplyPower(supplies, clock, Optional.empty());
            double atS = 0;
            for (Reading reading : one.getValue()) {
                change(supplies, reading.told[1], names);
                clock.advance(Double.parseDouble(reading.told[0]) - atS);
                atS = Double.parseDouble(reading.told[0]);
                check(one.getKey(), reading, source);
            }
        }
    }

    @Test
    public void theManagerIsBelievedAsByPython() throws IOException {
        Map<String, List<Reading>> cases = BatteryCases.read("battery_manager_cases.txt");
        assertTrue(cases.size() > 15);
        for (Map.Entry<String, List<Reading>> one : cases.entrySet()) {
            PowerSource source = new ManagerPower(() -> state, clock, Optional.empty());
            for (Reading reading : one.getValue()) {
                String[] told = reading.told;
                state = new BatteryState(STATUSES.indexOf(told[1]), PLUGGED.get(told[0]), number(told[2], -1),
                        number(told[3], Integer.MIN_VALUE), 0, Long.MIN_VALUE);
                check(one.getKey(), reading, source);
            }
        }
    }

    private static void check(String name, Reading reading, PowerSource source) {
        try {
            double powerW = source.powerW();
            assertTrue(name + ": " + powerW + " W, and it should say: " + reading.why, reading.why.isEmpty());
            assertEquals(name, Double.parseDouble(reading.powerW), powerW, 1e-9);
        } catch (UnavailableException why) {
            assertEquals(name + ": " + why.getMessage(), "-", reading.powerW);
            assertTrue(name + ": " + why.getMessage(), why.getMessage().contains(reading.why));
        }
    }

    private static void change(Path supplies, String files, Map<String, String> names) throws IOException {
        for (String word : files.split(";")) {
            String file = word.trim();
            if (names.containsKey(file)) {
                change(supplies, names.get(file), names);
            } else if (file.startsWith("!")) {
                Files.delete(supplies.resolve(file.substring(1)));
            } else if (!file.isEmpty()) {
                String[] parts = file.split("=", 2);
                Files.createDirectories(supplies.resolve(parts[0]).getParent());
                Files.writeString(supplies.resolve(parts[0]), parts[1] + "\n");
            }
        }
    }

    private static int number(String text, int none) {
        return text.equals("none") ? none : Integer.parseInt(text);
    }

    private static BatteryState discharging(int current, int chargeUah, long energyNwh) {
        return new BatteryState(3, 0, 4_000, current, chargeUah, energyNwh);
    }

    @Test
    public void aUnitThatIsToldIsNotGuessed() throws Exception {
        state = discharging(-3_450, 0, 0); // a phone in deep sleep: 3.45 mA
        assertEquals(0.0138, new ManagerPower(() -> state, clock, Optional.of("uA")).powerW(), 1e-12);
        assertEquals(13.8, new ManagerPower(() -> state, clock, Optional.of("mA")).powerW(), 1e-12);
        state = discharging(-11_000, 0, 0);
        assertEquals(44, new ManagerPower(() -> state, clock, Optional.of("mA")).powerW(), 1e-12);
        assertThrows(FedmeterException.Usage.class, () -> new ManagerPower(() -> state, clock, Optional.of("A")));
    }

    @Test
    public void aManagerThatHasStoppedIsRefusedUntilItMoves() throws Exception {
        PowerSource source = new ManagerPower(() -> state, clock, Optional.empty());
        state = discharging(-345_000, 3_000_000, 0);
        source.powerW();
        clock.advance(100);
        state = discharging(-345_000, 2_999_000, 0); // its charge counter lives
        source.powerW();
        clock.advance(121);
        assertTrue(assertThrows(UnavailableException.class, source::powerW).getMessage().contains("frozen"));
        state = discharging(-350_000, 2_999_000, 0);
        assertEquals(1.4, source.powerW(), 1e-12);
    }

    @Test
    public void aPipeInThePlaceOfAFileIsNotWaitedFor() throws Exception {
        Path supplies = folder.newFolder().toPath();
        change(supplies, "phone; !battery/current_now", BatteryCases.definitions("power_supply_cases.txt"));
        Path pipe = supplies.resolve("battery/current_now");
        assertEquals(0, new ProcessBuilder("mkfifo", pipe.toString()).start().waitFor());
        PowerSource source = new SupplyPower(supplies, clock, Optional.empty());
        assertThrows(UnavailableException.class, source::powerW);
    }

    @Test
    public void countersBecomeJoules() throws Exception {
        EnergySource charge = ManagerCounter.charge(() -> state);
        EnergySource energy = ManagerCounter.energy(() -> state);
        state = discharging(0, 3_000_000, 11_100_000_000L);
        double chargeJ = charge.energyJ();
        double energyJ = energy.energyJ();
        state = new BatteryState(3, 0, 3_900, 0, 2_990_000, 11_060_500_000L);
        assertEquals(10_000 * 3.6e-3 * 3.95, charge.energyJ() - chargeJ, 1e-9);
        assertEquals(39_500_000 * 3.6e-6, energy.energyJ() - energyJ, 1e-9);
        state = discharging(-345_000, 1_000, Long.MIN_VALUE); // neither counts
        for (EnergySource source : new EnergySource[] {charge, energy}) {
            assertThrows(UnavailableException.class, source::energyJ);
        }
        state = new BatteryState(2, 2, 4_000, 0, 2_990_000, 11_060_500_000L);
        for (EnergySource source : new EnergySource[] {charge, energy}) {
            String why = assertThrows(UnavailableException.class, source::energyJ).getMessage();
            assertTrue(why, why.startsWith("charging"));
        }
    }

    private String rails(Path supplies) {
        return BatteryMeters.of(supplies, () -> state, clock, Optional.empty()).stream()
                .map(meter -> meter.between(0, 1)).map(reading -> reading.getRail() + " " + reading.getScope())
                .collect(Collectors.joining(", "));
    }

    @Test
    public void thePhoneSaysWhichMetersItHas() throws Exception {
        Path none = folder.newFolder().toPath();
        state = discharging(-345_000, 0, 0);
        assertEquals("battery device", rails(none));
        state = discharging(-345_000, 3_000_000, 11_100_000_000L);
        assertEquals("battery device, battery-energy device, battery-charge device", rails(none));
        Path supplies = folder.newFolder().toPath();
        change(supplies, "phone; usb/online=1; battery/status=Full", // closed to nobody, whatever it says now
                BatteryCases.definitions("power_supply_cases.txt"));
        Meter meter = (Meter) BatteryMeters.of(supplies, () -> state, clock, Optional.empty()).get(0);
        meter.sample();
        String why = meter.between(0, 1).getReason();
        assertTrue(why, why.contains("charging: usb may feed the device"));
    }

    @Test
    public void metersOfOneMomentAskOnce() throws Exception {
        int[] asked = new int[1];
        state = discharging(-345_000, 3_000_000, 11_100_000_000L);
        List<EnergyMeter> meters = BatteryMeters.of(folder.newFolder().toPath(), () -> {
            asked[0]++;
            return state;
        }, clock, Optional.empty());
        for (int second = 0; second < 3; second++) {
            meters.forEach(EnergyMeter::sample);
            clock.advance(1);
        }
        assertEquals(3, asked[0]);
        assertEquals(2 * 1.38, meters.get(0).between(0, 2_000_000_000L).getEnergyJ(), 1e-9);
    }

    @Test
    public void nothingThatFilesHoldMakesAWrongJoule() throws IOException {
        String[] texts = {"", "\n", "0\n", "-1\n", "345000\n", "-345\n", "4000000\n", "9".repeat(18) + "\n",
            "9".repeat(80) + "\n", "nan\n", "\u0000\u00ff", "Discharging\n", "Charging\n", "Battery\n", "1e5\n"};
        String[] files = {"usb/online", "battery/type", "battery/status", "battery/current_now", "battery/voltage_now"};
        Map<String, String> names = BatteryCases.definitions("power_supply_cases.txt");
        Path supplies = folder.newFolder().toPath();
        Random random = new Random(5);
        int believed = 0;
        for (int i = 0; i < 300; i++) {
            change(supplies, "phone", names);
            PowerSource source = new SupplyPower(supplies, clock, Optional.empty());
            for (int changes = random.nextInt(3); changes >= 0; changes--) {
                Path file = supplies.resolve(files[random.nextInt(files.length)]);
                Files.writeString(file, texts[random.nextInt(texts.length)], StandardCharsets.ISO_8859_1);
            }
            try {
                double powerW = source.powerW();
                assertTrue(powerW > 0 && powerW <= 150);
                assertEquals("Discharging", Files.readString(supplies.resolve("battery/status")).trim());
                assertEquals("0", Files.readString(supplies.resolve("usb/online")).trim());
                believed++;
            } catch (UnavailableException why) {
                assertTrue(!why.getMessage().isEmpty());
            }
        }
        assertTrue("some of it is a battery still", believed > 10);
    }

    @Test
    public void nothingThatIsToldMakesAWrongJoule() {
        int[] extremes = {Integer.MIN_VALUE, Integer.MIN_VALUE + 1, -1, 0, 1, 4_999, 5_000, Integer.MAX_VALUE};
        List<Integer> all = Arrays.stream(extremes).boxed().collect(Collectors.toList());
        for (int current : extremes) {
            for (int voltage : extremes) {
                Stream.of(0, 1, 2, 3, 4, 5, 6, -1).forEach(status -> all.forEach(plugged -> {
                    BatteryState told = new BatteryState(status, plugged, voltage, current, 0, 0);
                    try {
                        double powerW = new ManagerPower(() -> told, clock, Optional.empty()).powerW();
                        assertTrue(status == 3 && plugged == 0 && powerW > 0 && powerW <= 150);
                    } catch (UnavailableException why) {
                        assertTrue(!why.getMessage().isEmpty());
                    }
                }));
            }
        }
    }
}
