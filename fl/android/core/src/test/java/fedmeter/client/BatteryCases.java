package fedmeter.client;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.Arrays;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Map;

/** The cases that Python's sensors are tested by as well, out of tests/fixtures: one line of a case is one reading. */
final class BatteryCases {
    /** What is told, and either the watts that follow from it or words of the reason why there are none. */
    static final class Reading {
        final String[] told;
        final String powerW;
        final String why;

        private Reading(String[] columns) {
            this.told = Arrays.copyOfRange(columns, 1, columns.length - 2);
            this.powerW = columns[columns.length - 2];
            this.why = columns[columns.length - 1];
        }
    }

    private BatteryCases() {}

    static Map<String, List<Reading>> read(String file) throws IOException {
        Map<String, List<Reading>> cases = new LinkedHashMap<>();
        List<Reading> last = new ArrayList<>();
        for (String line : lines(file)) {
            if (line.contains(":=")) {
                continue;
            }
            String[] columns = Arrays.stream((line + " ").split("\\|")).map(String::trim).toArray(String[]::new);
            if (!columns[0].isEmpty()) {
                last = new ArrayList<>();
                cases.put(columns[0], last);
            }
            last.add(new Reading(columns));
        }
        return cases;
    }

    /** What a name in a list of files stands for. */
    static Map<String, String> definitions(String file) throws IOException {
        Map<String, String> short_ = new LinkedHashMap<>();
        for (String line : lines(file)) {
            String[] parts = line.split(":=");
            if (parts.length == 2) {
                short_.put(parts[0].trim(), parts[1].trim());
            }
        }
        return short_;
    }

    private static List<String> lines(String file) throws IOException {
        List<String> lines = new ArrayList<>();
        for (String line : Files.readAllLines(Path.of(System.getProperty("fixtures"), file))) {
            if (!line.isBlank() && !line.startsWith("#")) {
                lines.add(line);
            }
        }
        return lines;
    }
}
