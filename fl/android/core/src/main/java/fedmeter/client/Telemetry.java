package fedmeter.client;

import fedmeter.client.FlowerClient.EvaluateResult;
import fedmeter.client.FlowerClient.FitResult;
import fedmeter.measurement.MeasurementOuterClass.Reading;
import fedmeter.measurement.MeasurementOuterClass.Span;
import java.util.HashMap;
import java.util.Map;

/**
 * What is told of a span beside it: attributes, and the flat keys of docs/protocol.md that anybody's server can take.
 * What is not known is absent. The level {@code samples} gets what {@code full} does: raw samples are not sent.
 */
final class Telemetry {
    private Telemetry() {}

    static boolean wantsAll(Config config) {
        String level = config.text("telemetry");
        return level.equals("full") || level.equals("samples");
    }

    /** What this machine is, where the server asked for it. */
    static Map<String, Object> device(Config config) {
        if (!wantsAll(config)) {
            return Map.of();
        }
        return Map.of("device.system", System.getProperty("os.name"),
                "device.release", System.getProperty("os.version"),
                "device.machine", System.getProperty("os.arch"), "device.java", System.getProperty("java.version"));
    }

    /** What every span of one call tells: the call, and the round where the config says it. */
    static Recorder.Open call(Recorder.Open span, String call, Config config) {
        span.set("call", call);
        Object round = config.values().get("round");
        return round instanceof Long ? span.set("round", round) : span;
    }

    static void describe(Recorder.Open span, Steps steps, FitResult result) {
        outcome(span, result.examples, result.metrics);
        if (!steps.isUsed()) { // its loop does not ask: nobody could have stopped it
            span.set("stopped_by", "unknown");
            return;
        }
        span.steps(steps);
        span.set("steps_done", steps.done()).set("steps_planned", steps.planned());
        span.set("stopped_by", steps.stoppedBy()).set("cutoff_s", steps.cutoffS());
    }

    static void describe(Recorder.Open span, EvaluateResult result) {
        Map<String, Object> metrics = new HashMap<>(result.metrics);
        metrics.put("loss", result.loss);
        outcome(span, result.examples, metrics);
    }

    private static void outcome(Recorder.Open span, long examples, Map<String, Object> metrics) {
        span.set("examples", examples);
        for (String name : new String[] {"loss", "accuracy"}) {
            Object value = metrics.get(name);
            if (value instanceof Double && Double.isFinite((Double) value)) {
                span.set(name, value);
            }
        }
    }

    /** Numbers alone, which any server can average. {@code steps} is null of an evaluate. */
    static Map<String, Object> flat(String phase, Span span, Steps steps) {
        Map<String, Object> flat = new HashMap<>();
        flat.put(phase + ".duration_s", span.getDurationS());
        if (span.getResources().hasCpuS()) {
            flat.put(phase + ".cpu_s", span.getResources().getCpuS());
        }
        if (span.getResources().hasPeakRssBytes()) {
            flat.put(phase + ".peak_rss_bytes", span.getResources().getPeakRssBytes());
        }
        if (span.getTotal().hasEnergyJ()) {
            flat.put(phase + ".energy_j", span.getTotal().getEnergyJ());
            flat.put(phase + ".energy_err_j", span.getTotal().getEnergyErrJ());
        }
        if (steps != null && steps.isUsed()) {
            flat.put(phase + ".steps_done", steps.done());
            flat.put(phase + ".steps_planned", steps.planned());
            flat.put(phase + ".stopped_by_cutoff", steps.stoppedBy().equals("cutoff") ? 1 : 0);
            flat.put(phase + ".cutoff_s", steps.cutoffS());
        }
        return flat;
    }

    /**
     * What the numbers leave out, where the server asked for it: how training ended, and what kind of joules these are.
     */
    static Map<String, Object> texts(String phase, Span span, Config config) {
        Map<String, Object> texts = new HashMap<>();
        if (!wantsAll(config)) {
            return texts;
        }
        if (span.containsAttributes("stopped_by")) {
            texts.put(phase + ".stopped_by", span.getAttributesOrThrow("stopped_by").getString());
        }
        if (span.hasTotal()) {
            Reading total = span.getTotal();
            texts.put(phase + ".provenance", total.getProvenance());
            texts.put(phase + ".energy_scope", total.getScope());
            if (total.hasReason()) {
                texts.put(phase + ".energy_reason", total.getReason());
            }
        }
        return texts;
    }
}
