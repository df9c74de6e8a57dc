package fedmeter.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertTrue;

import fedmeter.measurement.MeasurementOuterClass.Reading;
import fedmeter.measurement.MeasurementOuterClass.Span;
import java.util.ArrayList;
import java.util.List;
import java.util.concurrent.atomic.AtomicInteger;
import java.util.stream.Collectors;
import org.junit.Test;

/** Spans with several meters of the same joules, and the thread that samples them. */
public final class RecorderTest {
    /** Tells what it is given, and counts how often it was sampled. */
    private static final class FixedMeter implements EnergyMeter {
        private final Reading reading;
        private final AtomicInteger samples = new AtomicInteger();

        private FixedMeter(Reading reading) {
            this.reading = reading;
        }

        private static FixedMeter telling(String rail, double energyJ) {
            return new FixedMeter(Reading.newBuilder().setRail(rail).setEnergyJ(energyJ).addTotalOf(rail).build());
        }

        private static FixedMeter missing(String rail, String why) {
            return new FixedMeter(
                    Reading.newBuilder().setRail(rail).setProvenance("missing").setReason(why).build());
        }

        @Override
        public double minPeriodS() {
            return 0.001;
        }

        @Override
        public void sample() {
            samples.incrementAndGet();
        }

        @Override
        public Reading between(long beginNs, long endNs) {
            return reading;
        }
    }

    private static Span closed(List<? extends EnergyMeter> meters) {
        List<Span> seen = new ArrayList<>();
        Recorder recorder = new Recorder("phone", new FakeClock(), meters, seen::add);
        recorder.open("fit").close();
        assertEquals(1, seen.size());
        assertEquals("the watcher sees what is sent", seen, recorder.spool().take().getSpansList());
        return seen.get(0);
    }

    private static List<String> rails(Span span) {
        return span.getEnergiesList().stream().map(Reading::getRail).collect(Collectors.toList());
    }

    @Test
    public void theFirstMeterThatTellsIsTheTotalAndTheSameJoulesAreNotAdded() {
        FixedMeter power = FixedMeter.telling("battery", 10);
        FixedMeter charge = FixedMeter.telling("battery-charge", 11);
        Span span = closed(List.of(power, charge));
        assertEquals(10, span.getTotal().getEnergyJ(), 0);
        assertEquals(List.of("battery", "battery-charge"), rails(span));
        assertEquals("at both edges", 2, power.samples.get());
        assertEquals(2, charge.samples.get());
        span = closed(List.of(FixedMeter.missing("battery", "this phone tells no current"), charge));
        assertEquals("battery-charge", span.getTotal().getTotalOf(0));
        assertEquals(11, span.getTotal().getEnergyJ(), 0);
    }

    @Test
    public void whereNoneTellsTheFirstSaysWhy() {
        Span span = closed(List.of(FixedMeter.missing("battery", "charging"), FixedMeter.missing("b", "other")));
        assertFalse(span.getTotal().hasEnergyJ());
        assertEquals("charging", span.getTotal().getReason());
        assertEquals("no sensor was given to this profiler", closed(List.of()).getTotal().getReason());
    }

    @Test
    public void metersAreSampledUntilTheyAreClosed() throws InterruptedException {
        FixedMeter meter = FixedMeter.telling("battery", 1);
        Sampling sampling = new Sampling(List.of(meter));
        for (int i = 0; i < 30_000 && meter.samples.get() < 5; i++) {
            Thread.sleep(1);
        }
        sampling.close();
        assertTrue(meter.samples.get() >= 5);
        for (int i = 0; i < 30_000 && sampling.isAlive(); i++) {
            Thread.sleep(1);
        }
        assertFalse(sampling.isAlive());
    }
}
