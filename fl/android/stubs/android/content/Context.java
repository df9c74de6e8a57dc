package android.content;

import android.content.res.AssetManager;
import java.io.File;

public abstract class Context {
    public static final int BIND_AUTO_CREATE = 1;

    public final <T> T getSystemService(Class<T> serviceClass) {
        throw new UnsupportedOperationException();
    }

    public abstract AssetManager getAssets();

    public abstract File getExternalFilesDir(String type);

    public abstract Intent registerReceiver(BroadcastReceiver receiver, IntentFilter filter);

    public abstract ComponentName startService(Intent service);

    public abstract ComponentName startForegroundService(Intent service);

    public abstract boolean bindService(Intent service, ServiceConnection conn, int flags);

    public abstract void unbindService(ServiceConnection conn);
}
