package fedmeter.client;

import fedmeter.client.PowerSource.UnavailableException;
import java.util.Objects;

/**
 * The arithmetic of a battery's gauge, whichever way it is asked: units that have to be guessed, values that have
 * stopped moving. The rules, and the guesses, are those of {@code profiler/sensors/gauge.py}.
 *
 * <p>Signs of a discharging current differ between drivers (negative, positive or always positive: Linux commit
 * 05f94eb98907), so that the magnitude is taken, and only of a battery that is known to discharge.
 */
final class Gauge {
    /** No accuracy of a phone's gauge is documented: 5 % is assumed, k = 2. */
    static final double GAIN_ERR = 0.05;
    /** Assumed too; no file and no call of Android tells how often a gauge renews its value. */
    static final double REFRESH_S = 1.0;
    /** Smart Battery Data Specification 1.1: current comes in steps of 1 mA. */
    static final double CURRENT_STEP_A = 0.001;
    /** More is a wrong unit, not a draw. */
    static final double PHONE_MAX_POWER_W = 150;
    static final double ACPI_MAX_POWER_W = 300;

    private static final long MA_BELOW = 5_000; // a phone that is awake draws more than 5 mA and less than 5 A
    private static final long MAX_ASSUMED_MA = 10_000;
    private static final double FROZEN_S = 120; // the slowest gauge known changes every 30 s

    private Gauge() {}

    /** What a current comes in: Android and Linux say µA, and some drivers give mA. */
    enum Unit {
        UA(1e6), MA(1e3);

        private final double perAmpere;

        Unit(double perAmpere) {
            this.perAmpere = perAmpere;
        }

        /** Judged by the magnitude of a current that is not 0. */
        static Unit guessed(long current) {
            return Math.abs(current) < MA_BELOW ? MA : UA;
        }

        /** As a configuration says it: {@code uA}, {@code mA}. Throws Usage. */
        static Unit of(String name) {
            if (!name.equals("uA") && !name.equals("mA")) {
                throw new FedmeterException.Usage("current_unit = " + name + ": it is uA or mA.");
            }
            return name.equals("uA") ? UA : MA;
        }
    }

    /** A voltage in V that is told in µV, mV or V: cells have 1 to 100 V, so its magnitude says in which. */
    static double volts(long raw) throws UnavailableException {
        for (long perVolt : new long[] {1_000_000, 1_000, 1}) {
            if (raw >= perVolt && raw < 100 * perVolt) {
                return (double) raw / perVolt;
            }
        }
        throw new UnavailableException("voltage_now of " + raw + " is no voltage of a battery in µV, mV or V");
    }

    /** The magnitude of a current times its voltage. Throws UnavailableException where a unit was guessed wrongly. */
    static double watts(long current, Unit unit, boolean isUnitTold, double voltageV) throws UnavailableException {
        if (unit == Unit.MA && Math.abs(current) >= MAX_ASSUMED_MA && !isUnitTold) {
            throw new UnavailableException("a current of " + current + " cannot be in mA");
        }
        return Math.abs(current) / unit.perAmpere * voltageV;
    }

    /** For how long a gauge has said the same: one that has for two minutes of discharging is frozen. */
    static final class Stillness {
        private Object said;
        private long sinceNs;

        /** Throws UnavailableException where it is frozen. {@code saying} is all that it tells, to be compared. */
        void check(Object saying, long nowNs) throws UnavailableException {
            if (!Objects.equals(saying, said)) {
                said = saying;
                sinceNs = nowNs;
            }
            if (nowNs - sinceNs > FROZEN_S * 1e9) {
                throw new UnavailableException(
                        "frozen, it has said the same for more than " + Math.round(FROZEN_S) + " s");
            }
        }
    }
}
