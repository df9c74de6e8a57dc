package fedmeter.client;

/**
 * A monotonic clock in nanoseconds. On Android it is {@code SystemClock::elapsedRealtimeNanos}, which counts sleep too.
 */
@FunctionalInterface
public interface Clock {
    long nanos();

    static Clock system() {
        return System::nanoTime;
    }
}
