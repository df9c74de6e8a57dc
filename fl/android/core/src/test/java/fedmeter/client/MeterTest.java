package fedmeter.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import fedmeter.measurement.MeasurementOuterClass.Reading;
import java.util.function.DoubleUnaryOperator;
import org.junit.Test;

/** Watts to joules, against integrals that are known. */
public final class MeterTest {
    private static final long S = 1_000_000_000L;

    private final FakeClock clock = new FakeClock();

    /** A battery that draws what a function of the time says, and that charges from some second on. */
    private final class Battery implements PowerSource {
        private final DoubleUnaryOperator powerW;
        private final double chargesFromS;

        private Battery(DoubleUnaryOperator powerW, double chargesFromS) {
            this.powerW = powerW;
            this.chargesFromS = chargesFromS;
        }

        @Override
        public String rail() {
            return "battery";
        }

        @Override
        public String scope() {
            return "device";
        }

        @Override
        public double minPeriodS() {
            return 1;
        }

        @Override
        public double gainErr() {
            return 0.01;
        }

        @Override
        public double resolutionW() {
            return 0;
        }

        @Override
        public double powerW() throws UnavailableException {
            if (clock.nanos() / 1e9 >= chargesFromS) {
                throw new UnavailableException("the battery is being charged");
            }
            return powerW.applyAsDouble(clock.nanos() / 1e9);
        }
    }

    private Meter sampled(DoubleUnaryOperator powerW, double chargesFromS, double... gapsS) {
        Meter meter = new Meter(new Battery(powerW, chargesFromS), clock);
        meter.sample();
        for (double gapS : gapsS) {
            clock.advance(gapS);
            meter.sample();
        }
        return meter;
    }

    @Test
    public void aConstantPowerIsExact() {
        Reading reading = sampled(t -> 2.5, 99, 1, 1, 1, 1).between(0, 4 * S);
        assertEquals(10, reading.getEnergyJ(), 1e-9);
        assertEquals(0.1, reading.getEnergyErrJ(), 1e-9);
        assertEquals("integrated", reading.getProvenance());
        assertEquals(1, reading.getCoverage(), 1e-12);
        assertEquals(5, reading.getNSamples());
    }

    @Test
    public void energyIsAdditiveOverASplitWindow() {
        Meter meter = sampled(t -> 1 + t * t, 99, 1, 0.5, 1.2, 1, 1.3);
        double whole = meter.between(S / 4, 4 * S).getEnergyJ();
        double parts = meter.between(S / 4, 2 * S).getEnergyJ() + meter.between(2 * S, 4 * S).getEnergyJ();
        assertEquals(whole, parts, 1e-9);
    }

    @Test
    public void theErrorHoldsWhatHappenedBetweenSamples() {
        Reading reading = sampled(t -> t < 2.5 ? 1 : 5, 99, 1, 1, 1, 1, 1).between(0, 5 * S);
        assertEquals(2.5 + 2.5 * 5, reading.getEnergyJ(), reading.getEnergyErrJ());
    }

    @Test
    public void aStretchWithoutSamplesIsBridgedAndNotCovered() {
        Reading reading = sampled(t -> 2, 99, 1, 1, 1, 1, 1, 1, 1, 4).between(0, 11 * S);
        assertEquals(22, reading.getEnergyJ(), 1e-9);
        assertEquals(7.0 / 11, reading.getCoverage(), 1e-9);
        assertEquals(4, reading.getMaxGapS(), 1e-9);
        assertTrue("all of the bridged part is in doubt", reading.getEnergyErrJ() >= 8);
    }

    @Test
    public void aBatteryThatIsChargedHasNoJoulesAndSaysWhy() {
        Reading reading = sampled(t -> 2, 1.5, 1, 1, 1, 1).between(0, 4 * S);
        assertEquals("missing", reading.getProvenance());
        assertFalse(reading.hasEnergyJ());
        assertFalse(reading.hasEnergyErrJ());
        assertTrue(reading.getReason(), reading.getReason().contains("being charged"));
    }

    @Test
    public void nonsenseIsNoSample() {
        Reading reading = sampled(t -> t < 1 ? 2 : Double.NaN, 99, 1, 1, 1).between(0, 3 * S);
        assertEquals("missing", reading.getProvenance());
    }
}
