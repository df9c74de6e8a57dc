package fedmeter.client;

import java.nio.file.Path;
import java.util.List;
import java.util.Map;
import java.util.Optional;
import java.util.TreeMap;
import java.util.regex.Pattern;

/**
 * What an app is told by the extras of the intent that starts it, checked: whoever may start it need not be right.
 * Numbers come as numbers or as text, since what a fleet file fills in is text. Throws Usage for anything that is not
 * understood.
 */
public final class AppConfig {
    /** Every name there is, in the order of the alphabet. */
    static final List<String> NAMES = List.of("base", "classes", "current_unit", "device", "features", "head", "hidden",
            "images", "labels", "max_wait_s", "meter", "server", "shard", "tensors", "tls", "verbose", "workload");

    /** The head in plain Java, in the place of a model's file. */
    public static final String DENSE = "dense";

    private static final Pattern SERVER = Pattern.compile(
            "(\\[[0-9A-Fa-f:.]{2,45}(%[A-Za-z0-9._-]{1,32})?]|[A-Za-z0-9._-]{1,253}):[0-9]{1,5}");
    private static final Pattern DEVICE = Pattern.compile("[A-Za-z0-9][A-Za-z0-9._-]{0,63}"); // as in a fleet file
    private static final Pattern WORKLOAD = Pattern.compile("[A-Za-z0-9][A-Za-z0-9_-]{0,63}");
    private static final Pattern FILE = Pattern.compile("[A-Za-z0-9_][A-Za-z0-9._/-]{0,255}");
    private static final Pattern FOLDER = Pattern.compile("/?[A-Za-z0-9_][A-Za-z0-9._/-]{0,510}");
    private static final Pattern UNIT = Pattern.compile("[um]A");
    private static final int MAX_WIDTH = 65_536;
    private static final int MAX_WAIT_S = 24 * 3600;

    private final Map<String, String> told = new TreeMap<>();

    private AppConfig() {}

    /** Values are String, Integer, Long or Boolean, as an intent carries them; {@code android.*} is the system's. */
    public static AppConfig of(Map<String, ?> extras) {
        AppConfig config = new AppConfig();
        for (Map.Entry<String, ?> extra : extras.entrySet()) {
            String name = extra.getKey();
            Object value = extra.getValue();
            if (NAMES.contains(name) && (value instanceof String || value instanceof Integer || value instanceof Long
                    || value instanceof Boolean)) {
                config.told.put(name, String.valueOf(value));
            } else if (NAMES.contains(name)) {
                throw new FedmeterException.Usage(
                        "extra " + name + ": a text, a whole number, true or false is needed.");
            } else if (!name.startsWith("android.")) {
                throw new FedmeterException.Usage("extra " + shown(name) + " is not known.",
                        "There are " + String.join(", ", NAMES) + ".");
            }
        }
        config.check();
        return config;
    }

    /** So that whatever is wrong is said before anything begins. */
    private void check() {
        server();
        device();
        shard();
        workload();
        tls();
        classes();
        hidden();
        isRaw();
        maxWaitS();
        currentUnit();
        isMetered();
        isVerbose();
        for (String file : new String[] {features(), labels(), images().orElse("x"), head(), base()}) {
            if (file.contains("..")) {
                throw new FedmeterException.Usage(file + ": files lie below the app's own folder.");
            }
        }
    }

    /** HOST:PORT. */
    public String server() {
        if (!told.containsKey("server")) {
            throw new FedmeterException.Usage("extra server is missing.", "Say --es server HOST:PORT.");
        }
        return matching("server", "", SERVER, "HOST:PORT is needed");
    }

    /** What the server calls this client; empty where nobody has said it. */
    public String device() {
        return told.getOrDefault("device", "").isEmpty() ? ""
                : matching("device", "", DEVICE, "it is no name of a device");
    }

    public int shard() {
        return whole("shard", 0, 0, 1_000_000_000);
    }

    public String workload() {
        return matching("workload", "office31-mobilenetv2", WORKLOAD, "it is no name of a workload");
    }

    /** The folder with ca.pem and what else there is; none without TLS. The launcher says an empty text then. */
    public Optional<String> tls() {
        return told.getOrDefault("tls", "").isEmpty() ? Optional.empty()
                : Optional.of(matching("tls", "", FOLDER, "it is no folder"));
    }

    public String features() {
        return matching("features", "features-" + shard() + ".npy", FILE, "it is no file");
    }

    public String labels() {
        return matching("labels", "labels-" + shard() + ".npy", FILE, "it is no file");
    }

    /** A folder of CLASS/*.jpg to make features of, in the place of features that were made elsewhere. */
    public Optional<String> images() {
        return told.containsKey("images") ? Optional.of(matching("images", "", FILE, "it is no folder"))
                : Optional.empty();
    }

    public int classes() {
        return whole("classes", 31, 2, MAX_WIDTH);
    }

    public int hidden() {
        return whole("hidden", 256, 1, MAX_WIDTH);
    }

    /** {@link #DENSE}, or the file of a trainable LiteRT model. */
    public String head() {
        return matching("head", DENSE, FILE, "it is dense, or a .tflite file");
    }

    /** The file of the frozen base model, which images need. */
    public String base() {
        return matching("base", "base.tflite", FILE, "it is no file");
    }

    public boolean isRaw() {
        return oneOf("tensors", "npy", "float32").equals("float32");
    }

    public double maxWaitS() {
        return whole("max_wait_s", (int) Session.MAX_WAIT_S, 1, MAX_WAIT_S);
    }

    /** What a gauge's current comes in, where that is known better than guessed. */
    public Optional<String> currentUnit() {
        return told.containsKey("current_unit") ? Optional.of(matching("current_unit", "", UNIT, "it is uA or mA"))
                : Optional.empty();
    }

    public boolean isMetered() {
        return oneOf("meter", "auto", "none").equals("auto");
    }

    public boolean isVerbose() {
        return oneOf("verbose", "false", "true").equals("true");
    }

    /** A file or folder below another. Throws Usage where it would lie elsewhere. */
    public static Path below(Path folder, String name) {
        Path path = folder.resolve(name).normalize();
        if (!path.startsWith(folder.normalize())) {
            throw new FedmeterException.Usage(name + ": files lie below the app's own folder.");
        }
        return path;
    }

    private String matching(String name, String otherwise, Pattern pattern, String what) {
        String value = told.getOrDefault(name, otherwise);
        if (!pattern.matcher(value).matches()) {
            throw new FedmeterException.Usage("extra " + name + " = " + shown(value) + ": " + what + ".");
        }
        return value;
    }

    private String oneOf(String name, String first, String second) {
        String value = told.getOrDefault(name, first);
        if (!value.equals(first) && !value.equals(second)) {
            throw new FedmeterException.Usage(
                    "extra " + name + " = " + shown(value) + ": it is " + first + " or " + second + ".");
        }
        return value;
    }

    private int whole(String name, int otherwise, int least, int most) {
        String value = told.getOrDefault(name, String.valueOf(otherwise));
        int number = value.matches("[0-9]{1,9}") ? Integer.parseInt(value) : -1;
        if (number < least || number > most) {
            throw new FedmeterException.Usage("extra " + name + " = " + shown(value) + ": a whole number from " + least
                    + " to " + most + " is needed.");
        }
        return number;
    }

    private static String shown(String value) {
        return value.length() > 60 ? value.substring(0, 60) + "..." : value;
    }
}
