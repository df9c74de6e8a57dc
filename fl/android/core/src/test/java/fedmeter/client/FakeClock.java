package fedmeter.client;

/** A clock that goes on when it is told to. */
final class FakeClock implements Clock {
    private long nowNs;

    @Override
    public long nanos() {
        return nowNs;
    }

    void advance(double seconds) {
        nowNs += Math.round(seconds * 1e9);
    }
}
