package fedmeter.client;

import java.util.Arrays;

/**
 * Times the training steps of one fit and ends it before the step that would probably cross the cutoff.
 *
 * <pre>
 *     steps.plan(epochs * stepsOfAnEpoch);
 *     while (steps.next()) {
 *         train(nextBatch());
 *     }
 * </pre>
 *
 * The rule is that of {@code fl/steps.py}: no step begins but the first where elapsed + q95(recent step times) &gt;
 * cutoff, where the first step, which pays for caches and compilers, is left out once there are others.
 */
public final class Steps {
    private static final int WARMUP_STEPS = 1;

    private final Clock clock;
    private final double cutoffS;
    private final RecentQuantile costNs = new RecentQuantile();
    private double[] durationsS = new double[64];
    private long startedNs;
    private long askedNs;
    private long warmupCostNs;
    private boolean isStepOpen;
    private boolean isStopped;
    private int done;
    private long planned = -1;

    /** A cutoff of 0 is none. It counts from here. */
    Steps(Clock clock, double cutoffS) {
        this.clock = clock;
        this.cutoffS = cutoffS;
        this.startedNs = clock.nanos();
    }

    /** How many steps the whole fit calls for. Needed before the first. */
    public void plan(long steps) {
        if (steps < 1) {
            throw new FedmeterException.Usage(steps + " steps: a fit has at least one.");
        }
        planned = steps;
    }

    /** Ends the step that is going on, if any, and says whether another one is to begin. */
    public boolean next() {
        if (planned < 0) {
            throw new IllegalStateException("plan() comes before next()");
        }
        long nowNs = clock.nanos();
        finish(nowNs);
        if (done >= planned || isStopped) {
            return false;
        }
        if (wouldCross(nowNs)) {
            isStopped = true;
            return false;
        }
        askedNs = nowNs;
        isStepOpen = true;
        return true;
    }

    /** Ends the step that is going on, where a loop was left without a last {@link #next}. */
    void finish() {
        finish(clock.nanos());
    }

    /** Whether the client counts its steps here at all. */
    boolean isUsed() {
        return planned >= 0;
    }

    public int done() {
        return done;
    }

    public long planned() {
        return planned;
    }

    public String stoppedBy() {
        return isStopped ? "cutoff" : "completed";
    }

    public double cutoffS() {
        return cutoffS;
    }

    /** Seconds of each step, warm-up first. */
    double[] durationsS() {
        return Arrays.copyOf(durationsS, done);
    }

    int warmupSteps() {
        return Math.min(WARMUP_STEPS, done);
    }

    private boolean wouldCross(long nowNs) {
        if (cutoffS == 0 || done == 0) {
            return false;
        }
        long nextNs = done > WARMUP_STEPS ? costNs.value() : warmupCostNs;
        return nowNs - startedNs + nextNs > cutoffS * 1e9;
    }

    private void finish(long nowNs) {
        if (!isStepOpen) {
            return;
        }
        isStepOpen = false;
        long durationNs = nowNs - askedNs;
        if (done == durationsS.length) {
            durationsS = Arrays.copyOf(durationsS, 2 * done);
        }
        durationsS[done++] = durationNs / 1e9;
        if (done > WARMUP_STEPS) {
            costNs.add(durationNs);
        } else {
            warmupCostNs = durationNs;
        }
    }
}
