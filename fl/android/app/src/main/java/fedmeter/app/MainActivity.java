package fedmeter.app;

import android.Manifest;
import android.app.Activity;
import android.content.ComponentName;
import android.content.Context;
import android.content.Intent;
import android.content.ServiceConnection;
import android.os.Build;
import android.os.Bundle;
import android.os.Handler;
import android.os.IBinder;
import android.os.Looper;
import android.widget.Button;
import android.widget.EditText;
import android.widget.LinearLayout;
import android.widget.TextView;
import fedmeter.client.AppState;

/** A minimal screen: server and name to join with, start and stop; state, round and joules while there is work. */
public final class MainActivity extends Activity {
    private static final int PADDING = 48; // pixels
    private static final long LOOK_MS = 1_000;

    private final Handler main = new Handler(Looper.getMainLooper());
    private final Runnable looking = this::look;
    private EditText server;
    private EditText device;
    private TextView shown;
    private AppState state;

    private final ServiceConnection service = new ServiceConnection() {
        @Override
        public void onServiceConnected(ComponentName name, IBinder binder) {
            state = ((TrainService.Local) binder).state();
        }

        @Override
        public void onServiceDisconnected(ComponentName name) {
            state = null;
        }
    };

    @Override
    protected void onCreate(Bundle saved) {
        super.onCreate(saved);
        LinearLayout column = new LinearLayout(this);
        column.setOrientation(LinearLayout.VERTICAL);
        column.setPadding(PADDING, PADDING, PADDING, PADDING);
        server = new EditText(this);
        server.setHint("server, HOST:PORT");
        device = new EditText(this);
        device.setHint("name of this device in the fleet");
        shown = new TextView(this);
        column.addView(server);
        column.addView(device);
        column.addView(button("Start", () -> startForegroundService(new Intent(this, TrainService.class)
                .putExtra("server", server.getText().toString().trim())
                .putExtra("device", device.getText().toString().trim()))));
        column.addView(button("Stop", () -> startService(new Intent(this, TrainService.class)
                .setAction(TrainService.STOP))));
        column.addView(shown);
        setContentView(column);
        if (Build.VERSION.SDK_INT >= Build.VERSION_CODES.TIRAMISU) {
            requestPermissions(new String[] {Manifest.permission.POST_NOTIFICATIONS}, 0);
        }
    }

    private Button button(String text, Runnable action) {
        Button button = new Button(this);
        button.setText(text);
        button.setOnClickListener(view -> action.run());
        return button;
    }

    @Override
    protected void onStart() {
        super.onStart();
        bindService(new Intent(this, TrainService.class), service, Context.BIND_AUTO_CREATE);
        look();
    }

    @Override
    protected void onStop() {
        main.removeCallbacks(looking);
        unbindService(service);
        state = null;
        super.onStop();
    }

    private void look() {
        shown.setText(state == null ? "" : words(state.now()));
        main.postDelayed(looking, LOOK_MS);
    }

    private static String words(AppState.Snapshot now) {
        return now.line() + "\n" + now.server + (now.message.isEmpty() ? "" : "\n" + now.message);
    }
}
