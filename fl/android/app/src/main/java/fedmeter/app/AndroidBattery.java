package fedmeter.app;

import android.content.Context;
import android.content.Intent;
import android.content.IntentFilter;
import android.os.BatteryManager;
import fedmeter.client.BatteryState;
import fedmeter.client.PowerSource.UnavailableException;

/** Asks Android for the battery; what follows from its answers is {@link BatteryState}'s and its readers'. */
final class AndroidBattery implements BatteryState.Source {
    private static final int NONE = -1;

    private final Context context;
    private final BatteryManager manager;

    AndroidBattery(Context context) {
        this.context = context;
        this.manager = context.getSystemService(BatteryManager.class);
    }

    @Override
    public BatteryState now() throws UnavailableException {
        // sticky: without a receiver the last one is returned, and nothing is registered
        Intent last = context.registerReceiver(null, new IntentFilter(Intent.ACTION_BATTERY_CHANGED));
        if (last == null || manager == null) {
            throw new UnavailableException("Android tells nothing of a battery");
        }
        return new BatteryState(last.getIntExtra(BatteryManager.EXTRA_STATUS, NONE),
                last.getIntExtra(BatteryManager.EXTRA_PLUGGED, NONE),
                last.getIntExtra(BatteryManager.EXTRA_VOLTAGE, NONE),
                manager.getIntProperty(BatteryManager.BATTERY_PROPERTY_CURRENT_NOW),
                manager.getIntProperty(BatteryManager.BATTERY_PROPERTY_CHARGE_COUNTER),
                manager.getLongProperty(BatteryManager.BATTERY_PROPERTY_ENERGY_COUNTER));
    }
}
