package fedmeter.client;

import java.io.IOException;
import java.io.InputStream;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.NoSuchFileException;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.regex.Pattern;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * One folder of Linux's class power_supply: a battery or a charger. Files and units are those of
 * Documentation/ABI/testing/sysfs-class-power; rules are those of {@code profiler/sensors/power_supply.py}.
 */
final class Supply {
    private static final int MAX_FILE_BYTES = 64;
    private static final int MAX_SUPPLIES = 64;
    private static final Pattern INTEGER = Pattern.compile("-?[0-9]{1,18}");
    private static final Pattern ACPI_NAME = Pattern.compile("(BAT|CMB)[0-9A-Z]?");

    final String name;
    final String type;
    private final Path folder;
    private final boolean hasNewlines;

    private Supply(Path folder, String type, boolean hasNewlines) {
        this.folder = folder;
        this.name = folder.getFileName().toString();
        this.type = type;
        this.hasNewlines = hasNewlines;
    }

    /** Every supply of the machine itself, by name: those of mice and keyboards have the scope Device. */
    static List<Supply> all(Path folder) throws IOException {
        if (!Files.isDirectory(folder)) {
            return List.of();
        }
        List<Supply> found = new ArrayList<>();
        try (Stream<Path> paths = Files.list(folder)) {
            for (Path path : paths.sorted().limit(MAX_SUPPLIES).collect(Collectors.toList())) {
                if (Files.isRegularFile(path.resolve("type"))) {
                    byte[] type = look(path.resolve("type"));
                    Supply supply = new Supply(path, ascii(type), endsLine(type));
                    if (!supply.says("scope", "Device") && !supply.says("present", "0")) {
                        found.add(supply);
                    }
                }
            }
        }
        return found;
    }

    /**
     * The batteries to count. ACPI's are parts of their own and count each; of a phone's gauges, which show one cell,
     * one does: the first that gives power, {@code battery} before others.
     */
    static List<Supply> batteries(List<Supply> supplies) {
        List<Supply> found = supplies.stream().filter(one -> one.type.equals("Battery")).collect(Collectors.toList());
        List<Supply> acpi = found.stream().filter(Supply::isAcpi).collect(Collectors.toList());
        if (!acpi.isEmpty()) {
            return acpi;
        }
        found.sort((a, b) -> Integer.compare(a.rank(), b.rank())); // stable: else by name
        return found.subList(0, Math.min(1, found.size()));
    }

    private int rank() {
        return (givesPower() ? 0 : 2) + (name.equals("battery") ? 0 : 1);
    }

    private boolean givesPower() {
        return has("power_now") || has("current_now") && has("voltage_now");
    }

    /** What can feed the machine from outside. */
    static List<Supply> chargers(List<Supply> supplies) {
        return supplies.stream()
                .filter(one -> !one.type.equals("Battery") && !one.type.equals("UPS") && one.has("online"))
                .collect(Collectors.toList());
    }

    boolean isAcpi() {
        return ACPI_NAME.matcher(name).matches();
    }

    boolean has(String attribute) {
        return Files.exists(folder.resolve(attribute));
    }

    /** Whether it holds a number now: a driver that has no value answers with an error. */
    boolean hasNumber(String attribute) {
        try {
            number(attribute);
            return true;
        } catch (IOException none) {
            return false;
        }
    }

    /** Whether a charger is online: 1 and 2 are (ABI). One that cannot be asked may be; one that is gone is not. */
    boolean isOnline() {
        try {
            return number("online") != 0;
        } catch (NoSuchFileException gone) {
            return false;
        } catch (IOException unknown) {
            String why = String.valueOf(unknown.getMessage()); // ENODEV and ENODATA have no exception of their own
            return !why.contains("No such device") && !why.contains("No data available");
        }
    }

    long number(String attribute) throws IOException {
        String text = text(attribute);
        if (!INTEGER.matcher(text).matches()) {
            throw new IOException(folder.resolve(attribute) + " says '" + text + "', which is no number");
        }
        return Long.parseLong(text);
    }

    /** What a file says. One without the newline that its tree has elsewhere was cut off. */
    String text(String attribute) throws IOException {
        byte[] content = look(folder.resolve(attribute));
        if (content.length == 0 || hasNewlines && !endsLine(content)) {
            throw new IOException(folder.resolve(attribute) + " is empty or cut off");
        }
        return ascii(content);
    }

    private boolean says(String attribute, String word) {
        try {
            return text(attribute).equals(word);
        } catch (IOException silent) {
            return false;
        }
    }

    /** Only a plain file is opened: a pipe would let its reader wait. */
    private static byte[] look(Path path) throws IOException {
        if (!Files.isRegularFile(path)) {
            throw new NoSuchFileException(path.toString());
        }
        try (InputStream file = Files.newInputStream(path)) {
            byte[] content = new byte[MAX_FILE_BYTES];
            int n = 0;
            for (int more = 0; more >= 0 && n < content.length; more = file.read(content, n, content.length - n)) {
                n += more;
            }
            return Arrays.copyOf(content, n);
        }
    }

    private static boolean endsLine(byte[] content) {
        return content.length > 0 && content[content.length - 1] == '\n';
    }

    private static String ascii(byte[] content) {
        return new String(content, StandardCharsets.US_ASCII).trim();
    }
}
