package fedmeter.client;

import java.util.Optional;

/**
 * What a phone draws by BatteryManager's CURRENT_NOW times its voltage, for an app, which may not read the files of
 * {@link SupplyPower}. Believed and refused is what {@code profiler/sensors/termux.py}, which asks the same manager,
 * believes and refuses; a gauge that is frozen is refused, too.
 */
public final class ManagerPower extends BatteryPower {
    private final BatteryState.Source battery;
    private final Gauge.Stillness stillness = new Gauge.Stillness();
    private Gauge.Unit unit;
    private double voltageV = 4.5; // no lithium cell has more; until it is known

    /** {@code unit} as in {@link BatteryPower}. */
    public ManagerPower(BatteryState.Source battery, Clock clock, Optional<String> unit) {
        super(clock, unit);
        this.battery = battery;
        this.unit = told.orElse(null);
    }

    @Override
    public String rail() {
        return "battery";
    }

    @Override
    public synchronized double resolutionW() {
        return Gauge.CURRENT_STEP_A * Math.ceil(voltageV);
    }

    @Override
    public synchronized double powerW() throws UnavailableException {
        BatteryState state = battery.now();
        state.checkDischarging();
        long current = state.current();
        voltageV = state.voltageV();
        Gauge.Unit taken = unit == null ? Gauge.Unit.guessed(current) : unit;
        double powerW = Gauge.watts(current, taken, told.isPresent(), voltageV);
        if (powerW > Gauge.PHONE_MAX_POWER_W) {
            throw new UnavailableException(current + " " + taken + " at " + voltageV + " V is no draw of a phone");
        }
        unit = taken; // once: a gauge does not change its unit
        stillness.check(state.saying(), clock.nanos());
        return powerW;
    }
}
