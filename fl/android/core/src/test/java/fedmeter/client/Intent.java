package fedmeter.client;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;

/**
 * The app without Android: started by the words that follow {@code am start-foreground-service -n COMPONENT}, with what
 * {@code TrainService} makes of them. The properties {@code files} and {@code data} name what stands for the app's
 * shared and its private folder, {@code supplies} the phone's power_supply class. Without {@code files} it says what it
 * was told.
 */
public final class Intent {
    private Intent() {}

    public static void main(String[] words) {
        int code;
        try {
            AppConfig config = AppConfig.of(extras(words));
            code = System.getProperty("files") == null ? show(config) : work(config);
        } catch (FedmeterException wrong) {
            System.err.println(wrong.getMessage());
            code = wrong.exitCode();
        }
        System.exit(code);
    }

    private static int show(AppConfig config) {
        System.out.println(String.join("\n", "server " + config.server(), "device " + config.device(),
                "shard " + config.shard(), "workload " + config.workload(), "tls " + config.tls().orElse("-"),
                "features " + config.features(), "head " + config.head()));
        return 0;
    }

    private static int work(AppConfig config) {
        AppState state = new AppState(now -> System.out.println(now.line()));
        state.begin(config.server());
        Optional<Path> supplies = Optional.ofNullable(System.getProperty("supplies")).map(Path::of);
        Path files = Path.of(System.getProperty("files"));
        return new AppWork(config, new DesktopPlatform(files, Path.of(System.getProperty("data")), supplies), state)
                .run();
    }

    /** As Android's {@code am} reads them: --es, --ei and --ez with a name and a value each, and -a with an action. */
    static Map<String, Object> extras(String[] words) {
        Map<String, Object> extras = new HashMap<>();
        for (int i = 0; i < words.length; i++) {
            if (words[i].equals("-a")) {
                i++;
            } else {
                String value = words[i + 2];
                extras.put(words[i + 1], words[i].equals("--ei") ? Integer.valueOf(value)
                        : words[i].equals("--ez") ? Boolean.valueOf(value) : (Object) value);
                i += 2;
            }
        }
        return extras;
    }
}
