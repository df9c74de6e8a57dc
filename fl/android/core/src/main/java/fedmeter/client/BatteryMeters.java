package fedmeter.client;

import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Optional;

/** The ways to a phone's joules, best first: power by its files or, where they are closed, its manager; counters. */
public final class BatteryMeters {
    private static final double HOLD_S = 0.1;

    private BatteryMeters() {}

    /** One answer for all meters that ask in one moment: each takes four calls to other processes. */
    private static final class Held implements BatteryState.Source {
        private final BatteryState.Source battery;
        private final Clock clock;
        private BatteryState state;
        private long atNs;

        private Held(BatteryState.Source battery, Clock clock) {
            this.battery = battery;
            this.clock = clock;
        }

        @Override
        public synchronized BatteryState now() throws PowerSource.UnavailableException {
            if (state == null || clock.nanos() - atNs > HOLD_S * 1e9) {
                state = null; // whatever is thrown, no old answer is given
                state = battery.now();
                atNs = clock.nanos();
            }
            return state;
        }
    }

    /** {@code unit} as in {@link ManagerPower}. Counters that the phone does not have are left out. */
    public static List<EnergyMeter> of(Path supplies, BatteryState.Source asked, Clock clock, Optional<String> unit) {
        BatteryState.Source battery = new Held(asked, clock);
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
