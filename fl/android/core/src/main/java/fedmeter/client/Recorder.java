package fedmeter.client;

import fedmeter.measurement.MeasurementOuterClass.Attribute;
import fedmeter.measurement.MeasurementOuterClass.Reading;
import fedmeter.measurement.MeasurementOuterClass.Resources;
import fedmeter.measurement.MeasurementOuterClass.Span;
import java.nio.file.Paths;
import java.security.SecureRandom;
import java.util.ArrayList;
import java.util.List;
import java.util.OptionalDouble;
import java.util.function.Consumer;

/** Makes the spans of one client: times, joules where there is a meter, CPU time and memory. For one thread. */
public final class Recorder {
    /** As many as a record holds (profiler/records.py). */
    static final int MAX_STORED_STEPS = 10_000;

    /** Missing is told with its reason, in the words of profiler/span.py, and never 0. */
    private static final Reading UNKNOWN = Reading.newBuilder().setRail("total").setScope("device")
            .setProvenance("missing").setReason("no sensor was given to this profiler").build();

    private final Clock clock;
    private final List<? extends EnergyMeter> meters;
    private final Consumer<Span> watcher;
    private final ProcessUse use = new ProcessUse(Paths.get("/proc/self"));
    private final Spool spool = new Spool();
    private final String prefix;
    private long made;

    /** Without a meter energy is missing, and says so. */
    public Recorder(String device, Clock clock) {
        this(device, clock, List.of(), span -> { });
    }

    /**
     * {@code meters} see the same joules in different ways, best first: the first that tells is a span's total.
     * {@code watcher} is handed each span once it has been closed.
     */
    public Recorder(String device, Clock clock, List<? extends EnergyMeter> meters, Consumer<Span> watcher) {
        this.clock = clock;
        this.meters = List.copyOf(meters);
        this.watcher = watcher;
        this.prefix = device + "/" + Integer.toHexString(new SecureRandom().nextInt()) + "/";
    }

    Clock clock() {
        return clock;
    }

    Spool spool() {
        return spool;
    }

    /** Begins a span, which waits in the spool when it has been closed. */
    Open open(String name) {
        meters.forEach(EnergyMeter::sample);
        return new Open(name, clock.nanos());
    }

    /** Begins a span that began a moment ago, before it was known whether there would be one. */
    Open open(String name, long startNs) {
        return new Open(name, startNs);
    }

    /** A span that goes on. */
    final class Open implements AutoCloseable {
        private final Span.Builder span = Span.newBuilder();
        private final OptionalDouble cpuBeforeS = use.cpuS();
        private final long startNs;
        private boolean isClosed;

        private Open(String name, long startNs) {
            this.startNs = startNs;
            span.setSpanId(prefix + made++).setName(name).setStartNs(startNs).setStatus("ok");
        }

        /** Throws IllegalArgumentException for a type that attributes do not have. */
        Open set(String key, Object value) {
            span.putAttributes(key, attribute(value));
            return this;
        }

        void failed() {
            span.setStatus("error");
        }

        /** The durations of the steps, of many only every second, third, ... */
        void steps(Steps steps) {
            double[] durationsS = steps.durationsS();
            int every = (durationsS.length + MAX_STORED_STEPS - 1) / MAX_STORED_STEPS;
            for (int i = 0; i < durationsS.length; i += every) {
                span.addStepsS(durationsS[i]);
            }
            span.setWarmupSteps(steps.warmupSteps());
        }

        /** Ends the span, once. */
        @Override
        public void close() {
            if (isClosed) {
                return;
            }
            isClosed = true;
            long endNs = clock.nanos();
            meters.forEach(EnergyMeter::sample);
            span.setDurationS((endNs - startNs) / 1e9).setResources(resources());
            measure(endNs);
            Span closed = span.build();
            spool.add(closed);
            watcher.accept(closed);
        }

        private void measure(long endNs) {
            List<Reading> readings = new ArrayList<>();
            for (EnergyMeter meter : meters) {
                Reading reading = meter.between(startNs, endNs);
                readings.add(reading);
                span.addEnergies(reading.toBuilder().clearTotalOf());
            }
            Reading first = readings.isEmpty() ? UNKNOWN : readings.get(0);
            span.setTotal(readings.stream().filter(Reading::hasEnergyJ).findFirst().orElse(first));
        }

        /** What the span is so far; all of it once it has been closed. */
        Span record() {
            return span.build();
        }

        private Resources resources() {
            Resources.Builder resources = Resources.newBuilder();
            OptionalDouble cpuS = use.cpuS();
            if (cpuBeforeS.isPresent() && cpuS.isPresent()) {
                resources.setCpuS(cpuS.getAsDouble() - cpuBeforeS.getAsDouble());
            }
            use.peakRssBytes().ifPresent(resources::setPeakRssBytes);
            return resources.build();
        }
    }

    private static Attribute attribute(Object value) {
        Attribute.Builder attribute = Attribute.newBuilder();
        if (value instanceof Long || value instanceof Integer) {
            attribute.setInt(((Number) value).longValue());
        } else if (value instanceof Double) {
            attribute.setDouble((Double) value);
        } else if (value instanceof String) {
            attribute.setString((String) value);
        } else {
            throw new IllegalArgumentException("no attribute: " + value);
        }
        return attribute.build();
    }
}
