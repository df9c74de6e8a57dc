package fedmeter.client;

import java.nio.file.Path;
import java.util.List;
import java.util.Optional;

/** An app's platform on a desktop JVM: the head in plain Java alone, and a battery where a power_supply class is. */
class DesktopPlatform implements AppWork.Platform {
    private static final Path PRIVATE = Path.of("/data/data/fedmeter.app");

    private final Path files;
    private final Path data;
    private final Optional<Path> supplies;

    /** {@code data} is in the place of the app's private folder. */
    DesktopPlatform(Path files, Path data, Optional<Path> supplies) {
        this.files = files;
        this.data = data;
        this.supplies = supplies;
    }

    @Override
    public Path files() {
        return files;
    }

    @Override
    public Path tls(String folder) {
        Path named = Path.of(folder);
        return named.startsWith(PRIVATE) ? data.resolve(PRIVATE.relativize(named)) : files.resolve(folder);
    }

    @Override
    public Clock clock() {
        return Clock.system();
    }

    @Override
    public Channels channels() {
        return new DesktopChannels();
    }

    @Override
    public List<? extends EnergyMeter> meters(AppConfig config, Clock clock) {
        return supplies.map(folder -> List.of(new Meter(new SupplyPower(folder, clock, config.currentUnit()), clock)))
                .orElse(List.of());
    }

    @Override
    public LiteRtHeadTrainer head(Path model, HeadShape shape) {
        throw new FedmeterException.Precondition(model + ": there is no LiteRT on a desktop JVM.", "Use head = dense.");
    }

    @Override
    public Examples examples(Path images, Path base, int classes) {
        throw new FedmeterException.Precondition(base + ": there is no LiteRT on a desktop JVM.", "Use features.");
    }

    @Override
    public void close() {}
}
