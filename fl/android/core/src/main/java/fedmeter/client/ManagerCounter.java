package fedmeter.client;

import fedmeter.client.PowerSource.UnavailableException;

/**
 * What has left a phone's battery by BatteryManager's counters: ENERGY_COUNTER where the phone has one, else
 * CHARGE_COUNTER times the mean of the voltages around each step, as {@code profiler/sensors/phone_gauge.py} makes it.
 * Counters step by 1 to 5 mAh on common phones, up to 72 J: they say something over many minutes.
 */
public abstract class ManagerCounter implements EnergySource {
    private static final double J_PER_NWH = 3.6e-6;
    private static final double J_PER_UAH_V = 3.6e-3;
    private static final double CHARGE_STEP_UAH = 5_000; // assumed: nothing tells it
    private static final double ENERGY_STEP_NWH = 18_500_000; // assumed: the same charge at 3.7 V

    private final BatteryState.Source battery;
    private final String rail;

    private ManagerCounter(BatteryState.Source battery, String rail) {
        this.battery = battery;
        this.rail = rail;
    }

    /** The rail {@code battery-energy}. */
    public static EnergySource energy(BatteryState.Source battery) {
        return new Energy(battery);
    }

    /** The rail {@code battery-charge}. */
    public static EnergySource charge(BatteryState.Source battery) {
        return new Charge(battery);
    }

    @Override
    public final String rail() {
        return rail;
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

    @Override
    public final synchronized double energyJ() throws UnavailableException {
        BatteryState state = battery.now();
        state.checkDischarging();
        return drawnJ(state);
    }

    abstract double drawnJ(BatteryState state) throws UnavailableException;

    private static final class Energy extends ManagerCounter {
        private Energy(BatteryState.Source battery) {
            super(battery, "battery-energy");
        }

        @Override
        public String provenance() {
            return "counter";
        }

        @Override
        public double resolutionJ() {
            return ENERGY_STEP_NWH * J_PER_NWH;
        }

        @Override
        double drawnJ(BatteryState state) throws UnavailableException {
            return -state.energyNwh() * J_PER_NWH; // what is left falls as joules are drawn
        }
    }

    private static final class Charge extends ManagerCounter {
        private double drawnJ;
        private double voltageV;
        private long chargeUah = -1;

        private Charge(BatteryState.Source battery) {
            super(battery, "battery-charge");
        }

        @Override
        public String provenance() {
            return "integrated"; // the charge is counted, its voltage only looked at
        }

        @Override
        public synchronized double resolutionJ() {
            return CHARGE_STEP_UAH * J_PER_UAH_V * (voltageV > 0 ? voltageV : 4.5);
        }

        @Override
        double drawnJ(BatteryState state) throws UnavailableException {
            long nowUah = state.chargeUah();
            double nowV = state.voltageV();
            if (chargeUah >= 0) {
                drawnJ += (chargeUah - nowUah) * J_PER_UAH_V * (voltageV + nowV) / 2;
            }
            chargeUah = nowUah;
            voltageV = nowV;
            return drawnJ;
        }
    }
}
