package android.content;

import android.os.Bundle;

public class Intent {
    public static final String ACTION_BATTERY_CHANGED = "android.intent.action.BATTERY_CHANGED";

    public Intent(Context packageContext, Class<?> cls) {}

    public String getAction() {
        throw new UnsupportedOperationException();
    }

    public Bundle getExtras() {
        throw new UnsupportedOperationException();
    }

    public int getIntExtra(String name, int defaultValue) {
        throw new UnsupportedOperationException();
    }

    public Intent putExtra(String name, String value) {
        throw new UnsupportedOperationException();
    }

    public Intent setAction(String action) {
        throw new UnsupportedOperationException();
    }
}
