package android.os;

public final class PowerManager {
    public static final int PARTIAL_WAKE_LOCK = 1;

    private PowerManager() {}

    public WakeLock newWakeLock(int levelAndFlags, String tag) {
        throw new UnsupportedOperationException();
    }

    public final class WakeLock {
        private WakeLock() {}

        public void acquire() {}

        public void release() {}
    }
}
