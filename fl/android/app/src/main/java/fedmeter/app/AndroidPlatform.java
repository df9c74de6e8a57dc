package fedmeter.app;

import android.content.Context;
import android.content.res.AssetFileDescriptor;
import android.os.SystemClock;
import fedmeter.client.AppConfig;
import fedmeter.client.AppWork;
import fedmeter.client.BatteryMeters;
import fedmeter.client.Channels;
import fedmeter.client.Clock;
import fedmeter.client.EnergyMeter;
import fedmeter.client.Examples;
import fedmeter.client.FedmeterException;
import fedmeter.client.HeadShape;
import fedmeter.client.ImageFolder;
import fedmeter.client.LiteRtHeadTrainer;
import fedmeter.client.SupplyPower;
import java.io.File;
import java.io.FileInputStream;
import java.io.IOException;
import java.nio.channels.FileChannel;
import java.nio.channels.FileChannel.MapMode;
import java.nio.file.Files;
import java.nio.file.Path;
import java.nio.file.Paths;
import java.nio.file.StandardOpenOption;
import java.util.List;

/** What the client's work takes from Android. For one piece of work, and one thread. */
final class AndroidPlatform implements AppWork.Platform {
    private final Context context;
    private LiteRtModel model;

    AndroidPlatform(Context context) {
        this.context = context;
    }

    /** The folder that adb pushes to: {@code /sdcard/Android/data/fedmeter.app/files}. */
    @Override
    public Path files() {
        File shared = context.getExternalFilesDir(null);
        if (shared == null) {
            throw new FedmeterException.Precondition("the phone's shared storage is not there.", "Is it mounted?");
        }
        return shared.toPath();
    }

    /** The launcher names a folder below the app's private one; another is looked for below {@link #files}. */
    @Override
    public Path tls(String folder) {
        return folder.startsWith("/") ? Paths.get(folder) : AppConfig.below(files(), folder);
    }

    /** It counts sleep, too. */
    @Override
    public Clock clock() {
        return SystemClock::elapsedRealtimeNanos;
    }

    @Override
    public Channels channels() {
        return Channels.GRPC;
    }

    @Override
    public List<? extends EnergyMeter> meters(AppConfig config, Clock clock) {
        return BatteryMeters.of(SupplyPower.FOLDER, new AndroidBattery(context), clock, config.currentUnit());
    }

    @Override
    public LiteRtHeadTrainer head(Path file, HeadShape shape) {
        model = model(file);
        return new LiteRtHeadTrainer(model, shape, 0);
    }

    @Override
    public Examples examples(Path images, Path base, int classes) {
        try (LiteRtModel frozen = model(base)) {
            return ImageFolder.examples(images, classes, Bitmaps::square, frozen.extractor());
        }
    }

    /** A file that was pushed, or one of that name in the app's assets. Throws Precondition where there is none. */
    private LiteRtModel model(Path file) {
        try {
            if (Files.exists(file)) {
                try (FileChannel channel = FileChannel.open(file, StandardOpenOption.READ)) {
                    return new LiteRtModel(channel.map(MapMode.READ_ONLY, 0, channel.size()), file.toString());
                }
            }
            String name = files().relativize(file).toString();
            try (AssetFileDescriptor asset = context.getAssets().openFd(name);
                    FileInputStream whole = new FileInputStream(asset.getFileDescriptor())) {
                return new LiteRtModel(whole.getChannel().map(
                        MapMode.READ_ONLY, asset.getStartOffset(), asset.getDeclaredLength()), name);
            }
        } catch (IOException absent) {
            throw new FedmeterException.Precondition(file + " cannot be read, and the app brings no such model along.",
                    "Push it there with adb.");
        }
    }

    @Override
    public void close() {
        if (model != null) {
            model.close();
        }
    }
}
