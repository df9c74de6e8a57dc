package fedmeter.client;

import java.util.ArrayDeque;

/** The latest samples of one source, oldest first, bounded. */
final class Samples {
    private static final int MAX_SAMPLES = 100_000; // 28 hours at 1 Hz

    private final ArrayDeque<Sample> kept = new ArrayDeque<>();

    /** What a source said at one moment, in its own unit. */
    static final class Sample {
        final long atNs;
        final double value;

        private Sample(long atNs, double value) {
            this.atNs = atNs;
            this.value = value;
        }
    }

    /** Is shown neighbours in the order of time; before the first there is null. */
    @FunctionalInterface
    interface Visitor {
        void visit(Sample before, Sample after);
    }

    void add(long atNs, double value) {
        kept.addLast(new Sample(atNs, value));
        if (kept.size() > MAX_SAMPLES) {
            kept.removeFirst();
        }
    }

    void clear() {
        kept.clear();
    }

    /** Whether there is a sample, and one larger than this value is the last. */
    boolean fellTo(double value) {
        return !kept.isEmpty() && kept.getLast().value > value;
    }

    void forEachPair(Visitor visitor) {
        Sample before = null;
        for (Sample after : kept) {
            visitor.visit(before, after);
            before = after;
        }
    }
}
