package fedmeter.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import fedmeter.measurement.MeasurementOuterClass.Reading;
import org.junit.Test;

/** A counter of joules, against differences that are known. */
public final class CounterMeterTest {
    private static final long S = 1_000_000_000L;

    private final FakeClock clock = new FakeClock();
    private double countedJ = 1_000;
    private String trouble = "";

    private final EnergySource source = new EnergySource() {
        @Override
        public String rail() {
            return "battery-charge";
        }

        @Override
        public String scope() {
            return "device";
        }

        @Override
        public String provenance() {
            return "integrated";
        }

        @Override
        public double minPeriodS() {
            return 1;
        }

        @Override
        public double gainErr() {
            return 0.05;
        }

        @Override
        public double resolutionJ() {
            return 2;
        }

        @Override
        public double energyJ() throws PowerSource.UnavailableException {
            if (!trouble.isEmpty()) {
                throw new PowerSource.UnavailableException(trouble);
            }
            return countedJ;
        }
    };
    private final CounterMeter meter = new CounterMeter(source, clock);

    private void count(double seconds, double joules) {
        clock.advance(seconds);
        countedJ += joules;
        meter.sample();
    }

    @Test
    public void aDifferenceIsExactAtSamplesAndLosesNothingInAGap() {
        count(0, 0);
        count(1, 10);
        count(600, 90);
        Reading reading = meter.between(0, 601 * S);
        assertEquals(100, reading.getEnergyJ(), 1e-9);
        assertEquals(0.05 * 100 + 2, reading.getEnergyErrJ(), 1e-9);
        assertEquals("integrated", reading.getProvenance());
        assertEquals(600, reading.getMaxGapS(), 1e-9);
        assertEquals(3, reading.getNSamples());
    }

    @Test
    public void energyIsAdditiveAndAnEdgeBetweenSamplesIsInDoubt() {
        count(0, 0);
        count(4, 40);
        count(4, 80);
        double whole = meter.between(S, 7 * S).getEnergyJ();
        Reading first = meter.between(S, 5 * S);
        assertEquals(whole, first.getEnergyJ() + meter.between(5 * S, 7 * S).getEnergyJ(), 1e-9);
        assertEquals(30 + 20, first.getEnergyJ(), 1e-9);
        double most = 0.75 * 40 + 0.75 * 80; // had all of it been drawn just outside, or just inside
        assertEquals(0.05 * 50 + 2 + most, first.getEnergyErrJ(), 1e-9);
    }

    @Test
    public void aChargerOnTheWayLeavesNoSilentlySmallerSum() {
        count(0, 0);
        count(1, 10);
        trouble = "charging: plugged is PLUGGED_USB, status is CHARGING";
        count(1, 0);
        trouble = "";
        count(1, -3);
        count(1, 10);
        Reading across = meter.between(0, 4 * S);
        assertEquals("missing", across.getProvenance());
        assertFalse(across.hasEnergyJ());
        assertTrue(across.getReason(), across.getReason().contains("PLUGGED_USB"));
        assertEquals(10, meter.between(3 * S, 4 * S).getEnergyJ(), 1e-9);
    }

    @Test
    public void aCounterThatRunsBackwardsBeginsAnew() {
        count(0, 0);
        count(1, -500);
        Reading across = meter.between(0, S);
        assertEquals("missing", across.getProvenance());
        assertTrue(across.getReason(), across.getReason().contains("backwards"));
    }

    @Test
    public void fewStepsAreSaidToBeFew() {
        count(0, 0);
        count(1, 4);
        Reading reading = meter.between(0, S);
        assertEquals(4, reading.getEnergyJ(), 1e-9);
        assertTrue(reading.getReason(), reading.getReason().startsWith("below_resolution"));
    }
}
