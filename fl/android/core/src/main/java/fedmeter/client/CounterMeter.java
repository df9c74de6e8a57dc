package fedmeter.client;

import fedmeter.client.Samples.Sample;
import fedmeter.measurement.MeasurementOuterClass.Reading;
import java.util.Locale;

/**
 * Samples a counter of joules and tells differences of it.
 *
 * <p>A counter loses nothing between two samples, however far apart. But where it could not be asked, as while the
 * battery charges, or ran backwards, what was counted before is forgotten: a window across that is missing rather than
 * too small. The error (expanded, k = 2) is the source's gain error, one step of it, and where an edge of the window
 * lies between two samples all that may have been counted on the wrong side of that edge.
 */
public final class CounterMeter implements EnergyMeter {
    private static final double MIN_STEPS = 4; // joules below so many steps are known badly: profiler/uncertainty.py

    private final EnergySource source;
    private final Clock clock;
    private final Samples samples = new Samples();
    private String lastTrouble = "";

    public CounterMeter(EnergySource source, Clock clock) {
        this.source = source;
        this.clock = clock;
    }

    @Override
    public double minPeriodS() {
        return source.minPeriodS();
    }

    @Override
    public synchronized void sample() {
        try {
            double energyJ = source.energyJ();
            if (samples.fellTo(energyJ)) {
                begin("the counter ran backwards");
            }
            samples.add(clock.nanos(), energyJ);
        } catch (PowerSource.UnavailableException why) {
            begin(why.getMessage());
        }
    }

    private void begin(String trouble) {
        samples.clear();
        lastTrouble = trouble;
    }

    @Override
    public synchronized Reading between(long beginNs, long endNs) {
        Window window = new Window(beginNs, endNs);
        samples.forEachPair(window::add);
        Reading.Builder reading = Reading.newBuilder().setRail(source.rail()).setScope(source.scope())
                .setNSamples(window.n).setMaxGapS(window.gapNs / 1e9)
                .setEffectiveHz(endNs > beginNs ? Math.max(0, window.n - 1) / ((endNs - beginNs) / 1e9) : 0);
        return (window.isKnown() ? counted(reading, window) : missing(reading)).build();
    }

    private Reading.Builder counted(Reading.Builder reading, Window window) {
        double energyJ = window.end.energyJ - window.begin.energyJ;
        double errJ = source.gainErr() * energyJ + source.resolutionJ() + window.begin.doubtJ + window.end.doubtJ;
        if (energyJ < MIN_STEPS * source.resolutionJ()) {
            reading.setReason(String.format(Locale.ROOT, "below_resolution: %.3g J, and the counter counts in steps of"
                    + " %.3g J", energyJ, source.resolutionJ()));
        }
        return reading.setProvenance(source.provenance()).setCoverage(1).setEnergyJ(energyJ).setEnergyErrJ(errJ)
                .addTotalOf(source.rail());
    }

    private Reading.Builder missing(Reading.Builder reading) {
        String why = "the counter did not count all the span";
        return reading.setProvenance("missing").setReason(lastTrouble.isEmpty() ? why : why + "; " + lastTrouble);
    }

    /** What the samples tell of a stretch of time. */
    private static final class Window {
        private final Edge begin;
        private final Edge end;
        private long gapNs;
        private int n;

        private Window(long beginNs, long endNs) {
            this.begin = new Edge(beginNs);
            this.end = new Edge(endNs);
        }

        private void add(Sample before, Sample after) {
            begin.meet(before, after);
            end.meet(before, after);
            n += after.atNs >= begin.atNs && after.atNs <= end.atNs ? 1 : 0;
            if (before != null && after.atNs > begin.atNs && before.atNs < end.atNs) {
                gapNs = Math.max(gapNs, after.atNs - before.atNs);
            }
        }

        private boolean isKnown() {
            return begin.isKnown && end.isKnown;
        }
    }

    /** What was counted at one moment, between the samples around it. */
    private static final class Edge {
        private final long atNs;
        private boolean isKnown;
        private double energyJ;
        private double doubtJ;

        private Edge(long atNs) {
            this.atNs = atNs;
        }

        private void meet(Sample before, Sample after) {
            if (after.atNs == atNs) {
                isKnown = true;
                energyJ = after.value;
                doubtJ = 0;
            } else if (before != null && before.atNs < atNs && after.atNs > atNs) {
                isKnown = true;
                double share = (double) (atNs - before.atNs) / (after.atNs - before.atNs);
                double countedJ = after.value - before.value;
                energyJ = before.value + share * countedJ;
                doubtJ = Math.max(share, 1 - share) * countedJ;
            }
        }
    }
}
