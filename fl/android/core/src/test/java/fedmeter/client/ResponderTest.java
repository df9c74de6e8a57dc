package fedmeter.client;

import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertFalse;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import com.google.protobuf.ByteString;
import fedmeter.measurement.MeasurementOuterClass.Measurement;
import fedmeter.measurement.MeasurementOuterClass.Span;
import fedmeter.wire.Transport.ClientMessage;
import fedmeter.wire.Transport.Code;
import fedmeter.wire.Transport.Parameters;
import fedmeter.wire.Transport.Reason;
import fedmeter.wire.Transport.Scalar;
import fedmeter.wire.Transport.ServerMessage;
import java.util.Map;
import java.util.Random;
import java.util.stream.Collectors;
import org.junit.Test;

/** Bytes in, bytes out, with a real head: what is told, in which encoding, and what happens to nonsense. */
public final class ResponderTest {
    private static final Map<String, Object> FULL = Map.of("telemetry", "full", "round", 3L, "batch_size", 2L);

    private final DenseHeadTrainer head = new DenseHeadTrainer(6, 4, 3, 1);
    private final Examples examples = DenseHeadTrainerTest.examples(5, 6, 3);
    private final HeadClient client = new HeadClient(head, examples, 0, Map.of("cores", 4));
    private final Recorder recorder = new Recorder("phone", Clock.system());

    private Responder responder() {
        return new Responder(client, recorder, Wire.NPY, 1 << 20);
    }

    private static byte[] fit(Parameters parameters, Map<String, Object> config) {
        ServerMessage.FitIns ins = ServerMessage.FitIns.newBuilder().setParameters(parameters)
                .putAllConfig(Wire.scalars(config)).build();
        return ServerMessage.newBuilder().setFitIns(ins).build().toByteArray();
    }

    private static byte[] leave(long seconds) {
        ServerMessage.ReconnectIns ins = ServerMessage.ReconnectIns.newBuilder().setSeconds(seconds).build();
        return ServerMessage.newBuilder().setReconnectIns(ins).build().toByteArray();
    }

    private static ClientMessage.FitRes fitted(Responder.Response response) throws Exception {
        return ClientMessage.parseFrom(response.data).getFitRes();
    }

    private static String spans(ClientMessage.FitRes reply) throws Exception {
        ByteString record = reply.getMetricsOrThrow("fedmeter.record").getBytes();
        return Measurement.parseFrom(record).getSpansList().stream().map(Span::getName)
                .collect(Collectors.joining(" "));
    }

    private byte[] wholeFit() {
        return fit(Wire.parameters(head.weights(), Wire.NPY), FULL);
    }

    @Test
    public void aFitTellsItsStepsAndItsSpans() throws Exception {
        Responder responder = responder();
        ClientMessage.FitRes reply = fitted(responder.answer(wholeFit(), 1));
        assertEquals(Code.OK, reply.getStatus().getCode());
        assertEquals(5, reply.getNumExamples());
        assertEquals(3, reply.getMetricsOrThrow("fit.steps_done").getSint64());
        assertEquals("completed", reply.getMetricsOrThrow("fit.stopped_by").getString());
        assertEquals(1, reply.getMetricsOrThrow("fedmeter.received_ns").getSint64());
        assertEquals("receive fit send", spans(reply));
        assertEquals("the wait comes with the next reply", "wait receive fit send",
                spans(fitted(responder.answer(wholeFit(), 1))));
    }

    @Test
    public void whatMayBeLostIsSentOnTheNextConnection() throws Exception {
        responder().answer(wholeFit(), 1);
        assertEquals("receive fit send receive fit send", spans(fitted(responder().answer(wholeFit(), 1))));
    }

    @Test
    public void noTextAndNoBytesWhereTheServerDidNotAsk() throws Exception {
        ClientMessage.FitRes reply = fitted(
                responder().answer(fit(Wire.parameters(head.weights(), Wire.NPY), Map.of()), 1));
        for (Map.Entry<String, Scalar> metric : reply.getMetricsMap().entrySet()) {
            assertFalse(metric.getKey(), metric.getValue().hasString() || metric.getValue().hasBytes());
        }
    }

    @Test
    public void aReplyHasTheEncodingOfItsInstruction() throws Exception {
        ClientMessage.FitRes reply = fitted(
                responder().answer(fit(Wire.parameters(head.weights(), Wire.RAW), FULL), 1));
        assertEquals(Wire.RAW, reply.getParameters().getTensorType());
        assertEquals(6 * 4 * Float.BYTES, reply.getParameters().getTensors(0).size());
    }

    @Test
    public void tensorsThatDoNotFitAreAnErrorOfTheCall() throws Exception {
        Parameters weights = Wire.parameters(head.weights(), Wire.RAW);
        Parameters cut = weights.toBuilder().setTensors(2, ByteString.copyFrom(new byte[3])).build();
        ClientMessage.FitRes reply = fitted(responder().answer(fit(cut, FULL), 1));
        assertEquals(Code.FIT_NOT_IMPLEMENTED, reply.getStatus().getCode());
        assertTrue(reply.getStatus().getMessage(), reply.getStatus().getMessage().contains("tensor 2"));
    }

    @Test
    public void configThatMakesNoSenseIsAnErrorOfTheCall() throws Exception {
        for (String key : new String[] {"epochs", "batch_size", "lr", "cutoff_s", "proximal_mu"}) {
            byte[] data = fit(Wire.parameters(head.weights(), Wire.NPY), Map.of(key, -1L));
            String message = fitted(responder().answer(data, 1)).getStatus().getMessage();
            assertTrue(message, message.contains(key));
        }
    }

    @Test
    public void aReplyThatIsTooLargeIsAnErrorOfTheCall() throws Exception {
        Responder small = new Responder(client, recorder, Wire.NPY, 100);
        String message = fitted(small.answer(wholeFit(), 1)).getStatus().getMessage();
        assertTrue(message, message.contains("at most 100"));
    }

    @Test
    public void theGoodbyeIsAnswered() throws Exception {
        for (long seconds : new long[] {0, 7}) {
            Responder.Response response = responder().answer(leave(seconds), 1);
            Reason reason = ClientMessage.parseFrom(response.data).getDisconnectRes().getReason();
            assertEquals(seconds == 0 ? Reason.ACK : Reason.RECONNECT, reason);
            assertEquals(seconds, response.leaveS.getAsLong());
        }
    }

    @Test
    public void bytesThatAreNoInstructionAreATypedError() {
        assertThrows(FedmeterException.Wire.class, () -> responder().answer(new byte[0], 1));
        assertThrows(FedmeterException.Wire.class, () -> responder().answer("<html>".getBytes(), 1));
        byte[] whole = wholeFit();
        byte[] half = java.util.Arrays.copyOf(whole, whole.length / 2);
        assertThrows(FedmeterException.Wire.class, () -> responder().answer(half, 1));
    }

    @Test
    public void damagedInstructionsAreAnsweredOrATypedError() {
        Random random = new Random(5);
        byte[] whole = wholeFit();
        for (int i = 0; i < 3_000; i++) {
            byte[] damaged = whole.clone();
            for (int n = random.nextInt(4); n >= 0; n--) {
                damaged[random.nextInt(damaged.length)] = (byte) random.nextInt();
            }
            try {
                assertTrue(responder().answer(damaged, 1).data.length > 0);
            } catch (FedmeterException.Wire expected) {
                assertTrue(expected.getMessage().length() > 0);
            }
        }
    }
}
