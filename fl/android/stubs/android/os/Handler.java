package android.os;

public class Handler {
    public Handler(Looper looper) {}

    public final boolean post(Runnable r) {
        throw new UnsupportedOperationException();
    }

    public final boolean postDelayed(Runnable r, long delayMillis) {
        throw new UnsupportedOperationException();
    }

    public final void removeCallbacks(Runnable r) {}
}
