package android.app;

import android.content.Context;
import android.content.Intent;

public final class PendingIntent {
    public static final int FLAG_IMMUTABLE = 1 << 26;

    private PendingIntent() {}

    public static PendingIntent getActivity(Context context, int requestCode, Intent intent, int flags) {
        throw new UnsupportedOperationException();
    }

    public static PendingIntent getService(Context context, int requestCode, Intent intent, int flags) {
        throw new UnsupportedOperationException();
    }
}
