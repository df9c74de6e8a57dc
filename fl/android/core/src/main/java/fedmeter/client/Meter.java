package fedmeter.client;

import fedmeter.client.Samples.Sample;
import fedmeter.measurement.MeasurementOuterClass.Reading;

/**
 * Samples one power source and integrates what it told between two moments.
 *
 * <p>Power is linear between samples. Stretches longer than three periods are bridged so, but count as not covered;
 * with less than half of a window covered its energy is missing, and the reading says why. The error (expanded, k = 2)
 * is the source's gain error, half a step of its resolution all the time, and for what happened between samples half of
 * |P2 - P1| dt of each stretch, which no monotone course of the power exceeds, or the whole area where it is bridged.
 */
public final class Meter implements EnergyMeter {
    private static final double GAP_PERIODS = 3.0;
    private static final double MIN_COVERAGE = 0.5;

    private final PowerSource source;
    private final Clock clock;
    private final Samples samples = new Samples();
    private String lastTrouble = "";

    public Meter(PowerSource source, Clock clock) {
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
            double powerW = source.powerW();
            if (!(powerW >= 0 && powerW < Double.POSITIVE_INFINITY)) {
                lastTrouble = "the source told " + powerW + " W";
                return;
            }
            samples.add(clock.nanos(), powerW);
        } catch (PowerSource.UnavailableException why) {
            lastTrouble = why.getMessage();
        }
    }

    @Override
    public synchronized Reading between(long beginNs, long endNs) {
        Sum sum = new Sum(GAP_PERIODS * source.minPeriodS());
        samples.forEachPair((before, after) -> {
            sum.countIf(after.atNs >= beginNs && after.atNs <= endNs);
            if (before != null) {
                sum.add(before, after, beginNs, endNs);
            }
        });
        return reading(sum, (endNs - beginNs) / 1e9);
    }

    private Reading reading(Sum sum, double durationS) {
        double coverage = durationS > 0 ? Math.min(1, sum.coveredS / durationS) : 0;
        Reading.Builder reading = Reading.newBuilder().setRail(source.rail()).setScope(source.scope())
                .setNSamples(sum.n).setCoverage(coverage).setMaxGapS(sum.maxGapS)
                .setEffectiveHz(durationS > 0 ? Math.max(0, sum.n - 1) / durationS : 0);
        if (coverage < MIN_COVERAGE) {
            String why = Math.round(coverage * 100) + " % of the span was covered by samples";
            return reading.setProvenance("missing").setReason(lastTrouble.isEmpty() ? why : why + "; " + lastTrouble)
                    .build();
        }
        // what neither sample nor bridge covers drew something too: it is doubt at the mean power of the rest
        double uncoveredJ = sum.energyJ / sum.seenS * Math.max(0, durationS - sum.seenS);
        double errJ = source.gainErr() * sum.energyJ + source.resolutionW() / 2 * durationS + sum.doubtJ + uncoveredJ;
        return reading.setProvenance("integrated").setEnergyJ(sum.energyJ + uncoveredJ).setEnergyErrJ(errJ)
                .addTotalOf(source.rail()).build();
    }

    /** What adds up over the stretches between samples. */
    private static final class Sum {
        private final double gapS;
        private double energyJ;
        private double doubtJ;
        private double coveredS;
        private double seenS;
        private double maxGapS;
        private int n;

        private Sum(double gapS) {
            this.gapS = gapS;
        }

        private void countIf(boolean isInside) {
            n += isInside ? 1 : 0;
        }

        private void add(Sample before, Sample after, long beginNs, long endNs) {
            long lowNs = Math.max(before.atNs, beginNs);
            long highNs = Math.min(after.atNs, endNs);
            if (highNs <= lowNs) {
                return;
            }
            double stretchS = (after.atNs - before.atNs) / 1e9;
            double partS = (highNs - lowNs) / 1e9;
            double lowW = powerAt(before, after, lowNs);
            double highW = powerAt(before, after, highNs);
            double areaJ = (lowW + highW) / 2 * partS;
            boolean isBridged = stretchS > gapS;
            energyJ += areaJ;
            doubtJ += isBridged ? areaJ : Math.abs(highW - lowW) / 2 * partS;
            coveredS += isBridged ? 0 : partS;
            seenS += partS;
            maxGapS = Math.max(maxGapS, stretchS);
        }

        private static double powerAt(Sample before, Sample after, long atNs) {
            double share = (double) (atNs - before.atNs) / (after.atNs - before.atNs);
            return before.value + share * (after.value - before.value);
        }
    }
}
