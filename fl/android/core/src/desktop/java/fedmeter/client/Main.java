package fedmeter.client;

import java.nio.file.Path;
import java.util.HashMap;
import java.util.HashSet;
import java.util.Map;
import java.util.Set;
import java.util.logging.ConsoleHandler;
import java.util.logging.Level;
import java.util.logging.Logger;

/** A client on a desktop JVM: trains a head on features that {@code python -m fl.workloads.export} wrote. */
public final class Main {
    static final String USAGE = String.join(System.lineSeparator(),
            "usage: java -jar fedmeter-client.jar --server HOST:PORT --features X.npy --labels Y.npy --classes N"
                    + " [OPTION...]",
            "  --device ID             what the server calls this client",
            "  --workload NAME         what is told to the server (default: office31-mobilenetv2)",
            "  --shard I               tells the order of examples apart between clients (default: 0)",
            "  --hidden N              width of the head's hidden layer (default: 256)",
            "  --tensors npy|float32   how tensors are sent where the server does not show it (default: npy)",
            "  --tls DIR               talk TLS with the files of a security folder (default: $FEDMETER_TLS)",
            "  --root-certificates PEM talk TLS and trust this file",
            "  --max-wait S            seconds to wait for a server (default: 60)",
            "  --max-message-bytes N   what one message may hold",
            "  --verbose               stack traces, and more of what goes on");

    private static final Set<String> OPTIONS = Set.of("--server", "--features", "--labels", "--classes", "--device",
            "--workload", "--shard", "--hidden", "--tensors", "--tls", "--root-certificates", "--max-wait",
            "--max-message-bytes");

    private final Map<String, String> options = new HashMap<>();
    private final Set<String> flags = new HashSet<>();

    private Main(String[] arguments) {
        for (int i = 0; i < arguments.length; i++) {
            if (arguments[i].equals("--verbose") || arguments[i].equals("--help")) {
                flags.add(arguments[i]);
            } else if (OPTIONS.contains(arguments[i]) && i + 1 < arguments.length) {
                options.put(arguments[i], arguments[++i]);
            } else {
                throw new FedmeterException.Usage(arguments[i] + " is no option, or has no value.", "See --help.");
            }
        }
    }

    /** Exit codes as everywhere in fedmeter: 0, 1, 2, 3; 130 where it is interrupted, by the JVM itself. */
    public static void main(String[] arguments) throws InterruptedException {
        System.exit(run(arguments));
    }

    private static int run(String[] arguments) throws InterruptedException {
        boolean isVerbose = java.util.Arrays.asList(arguments).contains("--verbose");
        Logger log = log(isVerbose);
        try {
            Main main = new Main(arguments);
            if (main.flags.contains("--help")) {
                System.out.println(USAGE);
                return 0;
            }
            main.session().run();
            return 0;
        } catch (FedmeterException error) {
            log.log(Level.SEVERE, error.getMessage(), isVerbose ? error : null);
            return error.exitCode();
        }
    }

    private Session session() {
        String device = options.getOrDefault("--device", "");
        int classes = whole("--classes", null);
        int shard = whole("--shard", "0");
        Examples examples = Examples.read(Path.of(text("--features")), Path.of(text("--labels")), classes);
        HeadTrainer head = new DenseHeadTrainer(examples.width(), whole("--hidden", "256"), classes, 0);
        Map<String, Object> properties = Map.of("workload", options.getOrDefault("--workload", "office31-mobilenetv2"),
                "shard", shard, "examples", examples.size());
        Session.Options how = new Session.Options(text("--server")).device(device).security(security(device))
                .channels(new DesktopChannels())
                .rawTensors(isRaw()).maxWaitS(seconds("--max-wait", Session.MAX_WAIT_S))
                .maxMessageBytes(whole("--max-message-bytes", String.valueOf(Session.MAX_MESSAGE_BYTES)));
        HeadClient client = new HeadClient(head, examples, shard, properties);
        client.warmUp();
        return new Session(how, client, new Recorder(device, Clock.system()));
    }

    private Security security(String device) {
        if (options.containsKey("--root-certificates")) {
            return Security.trusting(Path.of(text("--root-certificates")));
        }
        String folder = options.getOrDefault("--tls", System.getenv("FEDMETER_TLS"));
        return folder == null || folder.isEmpty() ? Security.NONE : Security.of(Path.of(folder), device);
    }

    private boolean isRaw() {
        String tensors = options.getOrDefault("--tensors", "npy");
        if (!tensors.equals("npy") && !tensors.equals("float32")) {
            throw new FedmeterException.Usage("--tensors " + tensors + ": it is npy or float32.");
        }
        return tensors.equals("float32");
    }

    private String text(String option) {
        String value = options.get(option);
        if (value == null) {
            throw new FedmeterException.Usage(option + " is missing.", "See --help.");
        }
        return value;
    }

    private int whole(String option, String otherwise) {
        String value = otherwise == null ? text(option) : options.getOrDefault(option, otherwise);
        if (!value.matches("[0-9]{1,9}")) {
            throw new FedmeterException.Usage(option + " " + value + ": a whole number is needed.");
        }
        return Integer.parseInt(value);
    }

    private double seconds(String option, double otherwise) {
        String value = options.getOrDefault(option, String.valueOf(otherwise));
        if (!value.matches("[0-9]{1,9}(\\.[0-9]{1,9})?")) {
            throw new FedmeterException.Usage(option + " " + value + ": a number of seconds is needed.");
        }
        return Double.parseDouble(value);
    }

    /** To stderr, in one line each. Held on to by who calls: loggers are kept weakly. */
    private static Logger log(boolean isVerbose) {
        System.setProperty("java.util.logging.SimpleFormatter.format", "%1$tF %1$tT %4$s %5$s%6$s%n");
        Logger log = Logger.getLogger("fedmeter");
        log.setUseParentHandlers(false);
        ConsoleHandler handler = new ConsoleHandler();
        handler.setLevel(Level.ALL);
        log.addHandler(handler);
        log.setLevel(isVerbose ? Level.ALL : Level.INFO);
        return log;
    }
}
