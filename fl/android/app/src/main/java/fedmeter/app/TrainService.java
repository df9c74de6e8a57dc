package fedmeter.app;

import android.app.Notification;
import android.app.NotificationChannel;
import android.app.NotificationManager;
import android.app.PendingIntent;
import android.app.Service;
import android.content.Intent;
import android.content.pm.ServiceInfo;
import android.os.Binder;
import android.os.Build;
import android.os.Bundle;
import android.os.Handler;
import android.os.IBinder;
import android.os.Looper;
import android.os.PowerManager;
import fedmeter.client.AppConfig;
import fedmeter.client.AppState;
import fedmeter.client.AppWork;
import fedmeter.client.FedmeterException;
import java.util.HashMap;
import java.util.Map;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * The client as a service in the foreground, told what to do by the extras of the intent that starts it
 * ({@link AppConfig}): from adb, without a finger, or from the screen. One piece of work at a time; the process ends
 * with it, unless the screen is looked at, so that whoever watches by adb sees the end.
 */
public final class TrainService extends Service {
    /** The action that ends the work; any other begins it. */
    static final String STOP = "fedmeter.app.STOP";

    private static final Logger LOG = Logger.getLogger("fedmeter");
    private static final String CHANNEL = "work";
    private static final int NOTIFICATION = 1;
    private static final long NOTIFY_AFTER_MS = 1_000; // not while a reply is made: it is measured
    private static final long LINGER_MS = 10_000; // a failure stays, so that adb finds a process and its log

    private final Handler main = new Handler(Looper.getMainLooper());
    private final AppState state = new AppState(now -> renewNotification());
    private final Runnable notifying = () -> notifications().notify(NOTIFICATION, notification());
    private Thread worker;
    private boolean isWatched;

    /** What the screen is given: it is of this process. */
    final class Local extends Binder {
        AppState state() {
            return state;
        }
    }

    @Override
    public IBinder onBind(Intent intent) {
        isWatched = true;
        return new Local();
    }

    @Override
    public void onRebind(Intent intent) {
        isWatched = true;
    }

    @Override
    public boolean onUnbind(Intent intent) {
        isWatched = false;
        return true;
    }

    @Override
    public void onCreate() {
        super.onCreate();
        notifications().createNotificationChannel(
                new NotificationChannel(CHANNEL, "Training", NotificationManager.IMPORTANCE_LOW));
    }

    @Override
    public int onStartCommand(Intent intent, int flags, int startId) {
        showInForeground(); // at once, whatever the intent says: Android ends an app that does not
        if (intent == null || STOP.equals(intent.getAction())) {
            stopWork();
        } else {
            begin(intent);
        }
        return START_NOT_STICKY;
    }

    @Override
    public void onDestroy() {
        main.removeCallbacks(notifying);
        if (worker != null) {
            worker.interrupt();
        }
        super.onDestroy();
    }

    private void begin(Intent intent) {
        try {
            AppConfig config = AppConfig.of(extras(intent));
            if (!state.begin(config.server())) {
                LOG.warning("an intent was left out: there is work already.");
                return;
            }
            Logger.getLogger("fedmeter").setLevel(config.isVerbose() ? Level.ALL : Level.INFO);
            worker = new Thread(() -> work(config), "fedmeter-work");
            worker.start();
        } catch (FedmeterException wrong) {
            LOG.severe(wrong.getMessage());
            state.refuse(wrong.getMessage());
            ended();
        }
    }

    private void work(AppConfig config) {
        PowerManager.WakeLock awake = getSystemService(PowerManager.class)
                .newWakeLock(PowerManager.PARTIAL_WAKE_LOCK, "fedmeter:work");
        awake.acquire(); // without a limit: training may take days
        try {
            new AppWork(config, new AndroidPlatform(this), state).run();
        } finally {
            awake.release();
            main.post(this::ended);
        }
    }

    private void stopWork() {
        if (state.now().phase.isResting()) {
            ended();
        } else {
            worker.interrupt();
        }
    }

    /** On the main thread. */
    private void ended() {
        LOG.info(state.now().line());
        main.postDelayed(this::leaveIfResting, state.now().phase == AppState.Phase.FAILED ? LINGER_MS : 0);
    }

    private void leaveIfResting() {
        if (!state.now().phase.isResting()) {
            return;
        }
        stopForeground(STOP_FOREGROUND_REMOVE);
        stopSelf();
        if (!isWatched) {
            main.post(() -> System.exit(0)); // it is not sticky: nothing of it is started again
        }
    }

    private static Map<String, Object> extras(Intent intent) {
        Bundle bundle = intent.getExtras();
        Map<String, Object> extras = new HashMap<>();
        if (bundle != null) {
            for (String name : bundle.keySet()) {
                extras.put(name, bundle.get(name));
            }
        }
        return extras;
    }

    private void showInForeground() {
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.UPSIDE_DOWN_CAKE) {
            startForeground(NOTIFICATION, notification(), ServiceInfo.FOREGROUND_SERVICE_TYPE_SPECIAL_USE);
        } else {
            startForeground(NOTIFICATION, notification());
        }
    }

    /** Called by any thread, and often. */
    private void renewNotification() {
        main.removeCallbacks(notifying);
        if (!state.now().phase.isResting()) {
            main.postDelayed(notifying, NOTIFY_AFTER_MS);
        }
    }

    private Notification notification() {
        Intent stop = new Intent(this, TrainService.class).setAction(STOP);
        PendingIntent stopping = PendingIntent.getService(this, 0, stop, PendingIntent.FLAG_IMMUTABLE);
        PendingIntent opening =
                PendingIntent.getActivity(this, 0, new Intent(this, MainActivity.class), PendingIntent.FLAG_IMMUTABLE);
        return new Notification.Builder(this, CHANNEL)
                .setSmallIcon(android.R.drawable.stat_notify_sync)
                .setContentTitle("fedmeter")
                .setContentText(state.now().line())
                .setContentIntent(opening)
                .setOngoing(true)
                .setOnlyAlertOnce(true)
                .addAction(new Notification.Action.Builder(null, "Stop", stopping).build())
                .build();
    }

    private NotificationManager notifications() {
        return getSystemService(NotificationManager.class);
    }
}
