package fedmeter.client;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** The ways to a phone's joules, best first: power by its files or, where they are closed, its manager; counters. */
public final class BatteryMeters {
    private BatteryMeters() {}

    /** {@code unit} as in {@link ManagerPower}. Counters that the phone does not have are left out. */
    public static List<EnergyMeter> of(Path supplies, BatteryState.Source battery, Clock clock, Optional<String> unit) {
        SupplyPower files = new SupplyPower(supplies, clock, unit);
        List<EnergyMeter> meters = new ArrayList<>();
        meters.add(new Meter(files.canBeRead() ? files : new ManagerPower(battery, clock, unit), clock));
        try {
            BatteryState state = battery.now();
            if (state.countsEnergy()) {
                meters.add(new CounterMeter(ManagerCounter.energy(battery), clock));
            }
            if (state.countsCharge()) {
                meters.add(new CounterMeter(ManagerCounter.charge(battery), clock));
            }
        } catch (PowerSource.UnavailableException silent) {
            return meters; // the first of them will say so
        }
        return meters;
    }
}
