package fedmeter.client;

import java.io.IOException;
import java.nio.charset.StandardCharsets;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.OptionalDouble;
import java.util.OptionalLong;

/** CPU time and memory of this process, from proc(5): the same on Android and on a desktop. */
final class ProcessUse {
    private static final double TICKS_PER_S = 100; // USER_HZ, a constant of Linux's interface
    private static final int UTIME = 11; // fields after the command's closing bracket, proc(5) counts them from 3
    private static final int STIME = 12;

    private final Path proc;

    ProcessUse(Path proc) {
        this.proc = proc;
    }

    /** Seconds of CPU of all threads so far, in steps of 10 ms. */
    OptionalDouble cpuS() {
        try {
            String stat = read("stat");
            String[] fields = stat.substring(stat.lastIndexOf(')') + 1).trim().split(" ");
            return OptionalDouble.of((Long.parseLong(fields[UTIME]) + Long.parseLong(fields[STIME])) / TICKS_PER_S);
        } catch (IOException | RuntimeException unknown) {
            return OptionalDouble.empty();
        }
    }

    OptionalLong peakRssBytes() {
        try {
            for (String line : read("status").split("\n")) {
                if (line.startsWith("VmHWM:")) {
                    return OptionalLong.of(Long.parseLong(line.replaceAll("[^0-9]", "")) * 1024);
                }
            }
        } catch (IOException | RuntimeException unknown) {
            // as where there is no such line
        }
        return OptionalLong.empty();
    }

    private String read(String name) throws IOException {
        return new String(Files.readAllBytes(proc.resolve(name)), StandardCharsets.UTF_8);
    }
}
