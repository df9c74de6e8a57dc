package fedmeter.client;

import com.google.protobuf.ByteString;
import fedmeter.client.FlowerClient.EvaluateResult;
import fedmeter.client.FlowerClient.FitResult;
import fedmeter.wire.Transport.ClientMessage;
import fedmeter.wire.Transport.ClientMessage.MsgCase;
import fedmeter.wire.Transport.Code;
import fedmeter.wire.Transport.Parameters;
import fedmeter.wire.Transport.Reason;
import fedmeter.wire.Transport.Scalar;
import fedmeter.wire.Transport.ServerMessage;
import fedmeter.wire.Transport.Status;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.OptionalLong;
import java.util.logging.Level;
import java.util.logging.Logger;

/**
 * Answers the instructions of one connection, in order, from one thread: bytes in, bytes out, so that every transport
 * shares it. The Java twin of {@code fl/responder.py}, span for span:
 *
 * <pre>received | receive: decode | fit or evaluate | send: encode | handover | wait ... until the next
 * instruction</pre>
 */
final class Responder {
    private static final Logger LOG = Logger.getLogger("fedmeter");
    private static final String RECEIVED_KEY = "fedmeter.received_ns";
    private static final String HANDOVER_KEY = "fedmeter.handover_ns";
    private static final String RECORD_KEY = "fedmeter.record";
    private static final String IDLE_KEY = "fedmeter.idle";

    private final FlowerClient client;
    private final Recorder recorder;
    private final String tensorType;
    private final int maxReplyBytes;
    private Recorder.Open wait;
    private boolean hasReplied;

    /** What to send back, and, where the server said so, when to come again (0: never). */
    static final class Response {
        final byte[] data;
        final OptionalLong leaveS;

        private Response(byte[] data, OptionalLong leaveS) {
            this.data = data;
            this.leaveS = leaveS;
        }
    }

    /** {@code tensorType}: how weights are sent where nothing came whose encoding would tell. */
    Responder(FlowerClient client, Recorder recorder, String tensorType, int maxReplyBytes) {
        this.client = client;
        this.recorder = recorder;
        this.tensorType = tensorType;
        this.maxReplyBytes = maxReplyBytes;
        recorder.spool().giveBack(); // what the last reply of an earlier connection carried may be lost
    }

    /** {@code receivedNs}: when the whole instruction was there. Throws Wire for what is none: nothing answers that. */
    Response answer(byte[] data, long receivedNs) {
        close();
        if (hasReplied) {
            recorder.spool().confirm(); // strict ping-pong: an instruction confirms the reply before it
        }
        hasReplied = true;
        long decodingNs = recorder.clock().nanos();
        ServerMessage instruction = Wire.instruction(data);
        switch (instruction.getMsgCase()) {
            case RECONNECT_INS:
                return farewell(instruction.getReconnectIns().getSeconds());
            case FIT_INS:
                return sent(fit(instruction.getFitIns(), decodingNs, data.length, receivedNs));
            case EVALUATE_INS:
                return sent(evaluate(instruction.getEvaluateIns(), decodingNs, data.length, receivedNs));
            case GET_PARAMETERS_INS:
                return sent(getParameters());
            default:
                return sent(getProperties(Wire.config(instruction.getGetPropertiesIns().getConfigMap()), receivedNs));
        }
    }

    /** Ends the wait that is going on, if any. */
    void close() {
        if (wait != null) {
            wait.close();
            wait = null;
        }
    }

    private static Response sent(byte[] data) {
        return new Response(data, OptionalLong.empty());
    }

    private static Response farewell(long seconds) {
        ClientMessage.DisconnectRes left = ClientMessage.DisconnectRes.newBuilder()
                .setReason(seconds > 0 ? Reason.RECONNECT : Reason.ACK).build();
        return new Response(
                ClientMessage.newBuilder().setDisconnectRes(left).build().toByteArray(), OptionalLong.of(seconds));
    }

    private byte[] fit(ServerMessage.FitIns ins, long decodingNs, int n, long receivedNs) {
        Config config = Wire.config(ins.getConfigMap());
        ClientMessage.FitRes.Builder reply = ClientMessage.FitRes.newBuilder();
        Recorder.Open send;
        try {
            List<Tensor> weights = received("fit", ins.getParameters(), config, decodingNs, n);
            FitResult result = measuredFit(weights, config, reply);
            send = opened("send", "fit", config);
            reply.setStatus(ok()).setNumExamples(result.examples)
                    .setParameters(Wire.parameters(result.weights, typeOf(ins.getParameters())));
        } catch (Exception failure) { // the boundary to user code, which may throw anything
            send = opened("send", "fit", config);
            reply.clear().setStatus(failed(Code.FIT_NOT_IMPLEMENTED, failure));
        }
        ByteString body = reply.build().toByteString();
        if (body.size() > maxReplyBytes) {
            String why = "a reply of " + body.size() + " bytes; at most " + maxReplyBytes + " are sent";
            Status tooLarge = Status.newBuilder().setCode(Code.FIT_NOT_IMPLEMENTED).setMessage(why).build();
            body = ClientMessage.FitRes.newBuilder().setStatus(tooLarge).build().toByteString();
        }
        handOver(send, body.size());
        Map<String, Scalar> last = lastMetrics(config, receivedNs);
        wait = opened("wait", "fit", config);
        ByteString tail = ClientMessage.FitRes.newBuilder().putAllMetrics(last).build().toByteString();
        return Wire.joined(MsgCase.FIT_RES, body, tail);
    }

    private FitResult measuredFit(List<Tensor> weights, Config config, ClientMessage.FitRes.Builder reply)
            throws Exception {
        Recorder.Open span = opened("fit", "fit", config);
        try (span) {
            Steps steps = new Steps(recorder.clock(), config.notNegative("cutoff_s", 0));
            FitResult result = client.fit(weights, config, steps);
            steps.finish();
            Telemetry.describe(span, steps, result);
            span.close();
            reply.putAllMetrics(Wire.scalars(result.metrics))
                    .putAllMetrics(Wire.scalars(Telemetry.flat("fit", span.record(), steps)))
                    .putAllMetrics(Wire.scalars(Telemetry.texts("fit", span.record(), config)));
            return result;
        } catch (Exception failure) {
            span.failed();
            throw failure;
        }
    }

    private byte[] evaluate(ServerMessage.EvaluateIns ins, long decodingNs, int n, long receivedNs) {
        Config config = Wire.config(ins.getConfigMap());
        ClientMessage.EvaluateRes.Builder reply = ClientMessage.EvaluateRes.newBuilder();
        try {
            measuredEvaluate(received("evaluate", ins.getParameters(), config, decodingNs, n), config, reply);
        } catch (Exception failure) { // as in fit
            reply.clear().setStatus(failed(Code.EVALUATE_NOT_IMPLEMENTED, failure));
        }
        Recorder.Open send = opened("send", "evaluate", config);
        ByteString body = reply.build().toByteString();
        handOver(send, body.size());
        Map<String, Scalar> last = lastMetrics(config, receivedNs);
        wait = opened("wait", "evaluate", config);
        ByteString tail = ClientMessage.EvaluateRes.newBuilder().putAllMetrics(last).build().toByteString();
        return Wire.joined(MsgCase.EVALUATE_RES, body, tail);
    }

    private void measuredEvaluate(List<Tensor> weights, Config config, ClientMessage.EvaluateRes.Builder reply)
            throws Exception {
        Recorder.Open span = opened("evaluate", "evaluate", config);
        try (span) {
            EvaluateResult result = client.evaluate(weights, config);
            Telemetry.describe(span, result);
            span.close();
            reply.setStatus(ok()).setLoss((float) result.loss).setNumExamples(result.examples)
                    .putAllMetrics(Wire.scalars(result.metrics))
                    .putAllMetrics(Wire.scalars(Telemetry.flat("evaluate", span.record(), null)))
                    .putAllMetrics(Wire.scalars(Telemetry.texts("evaluate", span.record(), config)));
        } catch (Exception failure) {
            span.failed();
            throw failure;
        }
    }

    private byte[] getParameters() {
        ClientMessage.GetParametersRes.Builder reply = ClientMessage.GetParametersRes.newBuilder();
        try {
            reply.setStatus(ok()).setParameters(Wire.parameters(client.getWeights(), tensorType));
        } catch (Exception failure) { // as in fit
            reply.clear().setStatus(failed(Code.GET_PARAMETERS_NOT_IMPLEMENTED, failure));
        }
        return ClientMessage.newBuilder().setGetParametersRes(reply).build().toByteArray();
    }

    private byte[] getProperties(Config config, long receivedNs) {
        ClientMessage.GetPropertiesRes.Builder reply = ClientMessage.GetPropertiesRes.newBuilder();
        try {
            Map<String, Object> own = new HashMap<>(Telemetry.device(config));
            own.putAll(client.properties(config));
            if (tensorType.equals(Wire.RAW)) {
                own.put("fedmeter.tensors", "float32");
            }
            reply.setStatus(ok()).putAllProperties(Wire.scalars(own));
        } catch (Exception failure) { // as in fit
            reply.clear().setStatus(failed(Code.GET_PROPERTIES_NOT_IMPLEMENTED, failure));
        }
        reply.putAllProperties(lastMetrics(config, receivedNs));
        if (config.has(IDLE_KEY)) { // the server lets every client wait
            wait = recorder.open("idle").set("phase", config.text(IDLE_KEY));
        }
        return ClientMessage.newBuilder().setGetPropertiesRes(reply).build().toByteArray();
    }

    /** The tensors that came, decoded; a span from when decoding began. Raw ones are shaped by the client's model. */
    private List<Tensor> received(String call, Parameters parameters, Config config, long decodingNs, int n)
            throws Exception {
        try (Recorder.Open span = recorder.open("receive", decodingNs)) {
            Telemetry.call(span, call, config).set("n_bytes", n);
            return Wire.tensors(parameters, typeOf(parameters).equals(Wire.RAW) ? client.getWeights() : List.of());
        }
    }

    private Recorder.Open opened(String name, String call, Config config) {
        return Telemetry.call(recorder.open(name), call, config);
    }

    private static void handOver(Recorder.Open send, int n) {
        send.set("n_bytes", n).close();
    }

    /** What can be told only now: the times of this exchange, and where the server asked for it the spans. */
    private Map<String, Scalar> lastMetrics(Config config, long receivedNs) {
        Map<String, Object> last = new HashMap<>();
        if (Telemetry.wantsAll(config)) {
            byte[] record = recorder.spool().take().toByteArray();
            if (record.length > 0) {
                last.put(RECORD_KEY, record);
            }
        }
        last.put(RECEIVED_KEY, receivedNs);
        last.put(HANDOVER_KEY, recorder.clock().nanos());
        return Wire.scalars(last);
    }

    private static String typeOf(Parameters parameters) {
        return parameters.getTensorType().equals(Wire.RAW) ? Wire.RAW : Wire.NPY;
    }

    private static Status ok() {
        return Status.newBuilder().setCode(Code.OK).build();
    }

    /** The protocol has no code for "tried and failed"; "not implemented" of the call is what is nearest. */
    private static Status failed(Code code, Exception failure) {
        LOG.log(Level.WARNING, "a call failed", failure);
        String why = failure.getClass().getSimpleName() + ": " + failure.getMessage();
        return Status.newBuilder().setCode(code)
                .setMessage(why.substring(0, Math.min(why.length(), Wire.MAX_TEXT_CHARS))).build();
    }
}
