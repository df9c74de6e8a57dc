package fedmeter.client;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * An app's work, from what it was told to the server's goodbye: examples, head, meters, one session. What only a
 * platform can do is behind {@link Platform}, so that a desktop JVM runs the same and tests can see it.
 */
public final class AppWork {
    private static final Logger LOG = Logger.getLogger("fedmeter");
    private static final int INTERRUPTED = 130;

    /** What differs between Android and elsewhere. All of it may throw FedmeterException. */
    public interface Platform {
        /** Where the app's examples and models are. */
        Path files();

        /** Where the folder with TLS files is that a configuration names, absolute or below a folder of the app. */
        Path tls(String folder);

        Clock clock();

        Channels channels();

        /** The ways to the joules of this device, best first. */
        List<? extends EnergyMeter> meters(AppConfig config, Clock clock);

        /** The head that a model's file holds, and what has to be closed at the end. */
        LiteRtHeadTrainer head(Path model, HeadShape shape);

        /** Features of a folder of images, by a base model. */
        Examples examples(Path images, Path base, int classes);

        /** Whatever {@link #head} has opened. */
        void close();
    }

    private final AppConfig config;
    private final Platform platform;
    private final AppState state;

    public AppWork(AppConfig config, Platform platform, AppState state) {
        this.config = config;
        this.platform = platform;
        this.state = state;
    }

    /**
     * Works until the server says goodbye, or this thread is interrupted. How it ended is in the state, which must have
     * begun; returned is the exit code that a command would have.
     */
    public int run() {
        try {
            work();
            state.end(AppState.Phase.DONE, "");
            return 0;
        } catch (InterruptedException stopped) {
            state.end(AppState.Phase.STOPPED, "");
            return INTERRUPTED;
        } catch (FedmeterException error) {
            LOG.log(Level.SEVERE, error.getMessage());
            state.end(AppState.Phase.FAILED, error.getMessage());
            return error.exitCode();
        } catch (RuntimeException | LinkageError defect) { // of a runtime that is not ours, such as a model's
            LOG.log(Level.SEVERE, "the client failed", defect);
            state.end(AppState.Phase.FAILED, String.valueOf(defect.getMessage()));
            return 1;
        } finally {
            platform.close();
        }
    }

    private void work() throws InterruptedException {
        Session.Options how = new Session.Options(config.server()).device(config.device()).security(security())
                .channels(platform.channels()).rawTensors(config.isRaw()).maxWaitS(config.maxWaitS());
        Examples examples = examples();
        HeadTrainer head = head(new HeadShape(examples.width(), config.hidden(), config.classes()));
        Map<String, Object> properties = Map.of("workload", config.workload(), "shard", config.shard(),
                "examples", examples.size());
        HeadClient client = new HeadClient(head, examples, config.shard(), properties);
        client.warmUp();
        Clock clock = platform.clock();
        List<? extends EnergyMeter> meters = config.isMetered() ? platform.meters(config, clock) : List.of();
        Recorder recorder = new Recorder(config.device(), clock, meters, state::measured);
        Sampling sampling = new Sampling(meters);
        try {
            state.at(AppState.Phase.JOINING, 0);
            new Session(how, new Watched(client), recorder).run();
        } finally {
            sampling.close();
        }
    }

    private Security security() {
        return config.tls().map(folder -> Security.of(platform.tls(folder), config.device())).orElse(Security.NONE);
    }

    private Examples examples() {
        Path files = platform.files();
        Optional<String> images = config.images();
        if (images.isPresent()) {
            return platform.examples(AppConfig.below(files, images.get()), AppConfig.below(files, config.base()),
                    config.classes());
        }
        return Examples.read(AppConfig.below(files, config.features()), AppConfig.below(files, config.labels()),
                config.classes());
    }

    private HeadTrainer head(HeadShape shape) {
        return config.head().equals(AppConfig.DENSE)
                ? new DenseHeadTrainer(shape, 0)
                : platform.head(AppConfig.below(platform.files(), config.head()), shape);
    }

    /** Tells the state what is asked of a client. */
    private final class Watched implements FlowerClient {
        private final FlowerClient client;

        private Watched(FlowerClient client) {
            this.client = client;
        }

        @Override
        public Map<String, Object> properties(Config config) throws Exception {
            state.at(AppState.Phase.WAITING, 0);
            return client.properties(config);
        }

        @Override
        public List<Tensor> getWeights() throws Exception {
            return client.getWeights();
        }

        @Override
        public FitResult fit(List<Tensor> weights, Config config, Steps steps) throws Exception {
            state.at(AppState.Phase.FITTING, config.whole("round", 0));
            try {
                return client.fit(weights, config, steps);
            } finally {
                state.at(AppState.Phase.WAITING, 0);
            }
        }

        @Override
        public EvaluateResult evaluate(List<Tensor> weights, Config config) throws Exception {
            state.at(AppState.Phase.EVALUATING, config.whole("round", 0));
            try {
                return client.evaluate(weights, config);
            } finally {
                state.at(AppState.Phase.WAITING, 0);
            }
        }
    }
}
