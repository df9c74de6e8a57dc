package fedmeter.client;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.Map;
import java.util.Optional;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * The app without Android: started by the words that follow {@code am start-foreground-service -n COMPONENT}, with what
 * {@code TrainService} makes of them. The properties {@code files} and {@code supplies} name the app's folder and the
 * phone's power_supply class.
 */
public final class Intent {
    private Intent() {}

    public static void main(String[] words) {
        Logger log = Logger.getLogger("fedmeter");
        try {
            AppConfig config = AppConfig.of(extras(words));
            AppState state = new AppState(now -> System.out.println(now.line()));
            state.begin(config.server());
            Path files = Path.of(System.getProperty("files"));
            Optional<Path> supplies = Optional.ofNullable(System.getProperty("supplies")).map(Path::of);
            System.exit(new AppWork(config, new DesktopPlatform(files, supplies), state).run());
        } catch (FedmeterException wrong) {
            log.log(Level.SEVERE, wrong.getMessage());
            System.exit(wrong.exitCode());
        }
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
