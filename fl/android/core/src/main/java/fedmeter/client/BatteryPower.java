package fedmeter.client;

import java.util.Optional;

/** What every reading of a gauge is: of the whole device, renewed and as accurate as {@link Gauge} assumes. */
abstract class BatteryPower implements PowerSource {
    final Clock clock;
    final Optional<Gauge.Unit> told;

    /** {@code unit}: {@code uA} or {@code mA}, which settles what is guessed otherwise. Throws Usage for another. */
    BatteryPower(Clock clock, Optional<String> unit) {
        this.clock = clock;
        this.told = unit.map(Gauge.Unit::of);
    }

    @Override
    public final String scope() {
        return "device";
    }

    @Override
    public final double minPeriodS() {
        return Gauge.REFRESH_S;
    }

    @Override
    public final double gainErr() {
        return Gauge.GAIN_ERR;
    }
}
