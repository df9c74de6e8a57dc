package fedmeter.client;

import java.util.Arrays;

/**
 * The 0.95 quantile (nearest rank) of the last 1,024 values: bounded memory, and a device that throttles is noticed.
 */
final class RecentQuantile {
    static final double QUANTILE = 0.95;
    static final int WINDOW = 1024;

    private final long[] arrived = new long[WINDOW];
    private final long[] sorted = new long[WINDOW];
    private long count;

    void add(long value) {
        int size = size();
        int slot = (int) (count % WINDOW);
        if (size == WINDOW) {
            int leaving = Arrays.binarySearch(sorted, 0, size, arrived[slot]);
            System.arraycopy(sorted, leaving + 1, sorted, leaving, --size - leaving);
        }
        int found = Arrays.binarySearch(sorted, 0, size, value);
        int place = found < 0 ? -found - 1 : found;
        System.arraycopy(sorted, place, sorted, place + 1, size - place);
        sorted[place] = value;
        arrived[slot] = value;
        count++;
    }

    /** Throws IllegalStateException while nothing has been added. */
    long value() {
        if (count == 0) {
            throw new IllegalStateException("no value has been added");
        }
        return sorted[(int) Math.ceil(QUANTILE * size()) - 1];
    }

    private int size() {
        return (int) Math.min(count, WINDOW);
    }
}
