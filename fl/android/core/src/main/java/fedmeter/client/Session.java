package fedmeter.client;

import io.grpc.ConnectivityState;
import io.grpc.ManagedChannel;
import io.grpc.Metadata;
import io.grpc.Status;
import java.math.BigInteger;
import java.security.SecureRandom;
import java.util.Optional;
import java.util.OptionalDouble;
import java.util.Random;
import java.util.concurrent.CountDownLatch;
import java.util.concurrent.TimeUnit;

/**
 * Serves one server's calls until it says to leave: waits for one that is not up yet, comes back after a broken
 * connection, and tells its heartbeat by HTTP/2 pings as the server allows. The Java twin of {@code fl/client.py}.
 */
public final class Session {
    /** What one message may hold, unless it is said otherwise. */
    public static final int MAX_MESSAGE_BYTES = 512 * 1024 * 1024;
    /** How long to be without a server, unless it is said otherwise. */
    public static final double MAX_WAIT_S = 60.0;

    private static final double CONNECT_S = 10.0;
    private static final double STOOD_S = 2 * CONNECT_S; // a stream of such a length was one to a server
    private static final double GOODBYE_S = 5.0;
    private static final int MAX_METADATA_BYTES = 16 * 1024;
    private static final String HEARTBEAT_KEY = "fedmeter-heartbeat-s";
    private static final double LEAST_HEARTBEAT_S = 1.0;
    // gRPC servers answer pings more often than every 5 minutes with GOAWAY too_many_pings by default
    private static final double STRANGERS_PING_S = 330.0;
    private static final double STRANGERS_PONG_S = 60.0;

    private final String address;
    private final String device;
    private final FlowerClient client;
    private final Recorder recorder;
    private final Security security;
    private final String tensorType;
    private final int maxMessageBytes;
    private final double maxWaitS;
    private final Channels channels;
    private final Metadata told;
    private OptionalDouble heartbeatS = OptionalDouble.empty();

    /** How a client joins; all but the address has a default. */
    public static final class Options {
        final String address;
        String device = "";
        Security security = Security.NONE;
        String tensorType = Wire.NPY;
        int maxMessageBytes = MAX_MESSAGE_BYTES;
        double maxWaitS = MAX_WAIT_S;
        Channels channels = Channels.GRPC;

        public Options(String address) {
            this.address = address;
        }

        /** What the server calls this client. */
        public Options device(String device) {
            this.device = device;
            return this;
        }

        public Options security(Security security) {
            this.security = security;
            return this;
        }

        /** Tensors as float32 values alone, without shapes: the convention of Flower's FedAvgAndroid. */
        public Options rawTensors(boolean isRaw) {
            this.tensorType = isRaw ? Wire.RAW : Wire.NPY;
            return this;
        }

        public Options maxMessageBytes(int bytes) {
            this.maxMessageBytes = bytes;
            return this;
        }

        /** What connects. */
        public Options channels(Channels channels) {
            this.channels = channels;
            return this;
        }

        /** Seconds without any server, at the start and after each broken connection. */
        public Options maxWaitS(double seconds) {
            this.maxWaitS = seconds;
            return this;
        }
    }

    public Session(Options options, FlowerClient client, Recorder recorder) {
        this.address = options.address;
        this.device = options.device;
        this.security = options.security;
        this.tensorType = options.tensorType;
        this.maxMessageBytes = options.maxMessageBytes;
        this.maxWaitS = options.maxWaitS;
        this.client = client;
        this.recorder = recorder;
        this.channels = options.channels;
        this.told = metadata();
    }

    /**
     * Blocks until the server says goodbye.
     *
     * <p>Throws Precondition where none answers in time, Refused where one does not want this client, Wire where it
     * does not speak the protocol or sends more than is read, InterruptedException where this thread is told to stop.
     */
    public void run() throws InterruptedException {
        security.checkWay(address);
        BackOff backOff = new BackOff(maxWaitS, recorder.clock(), new Random(),
                seconds -> Thread.sleep(Math.round(seconds * 1e3)));
        while (true) {
            long beganNs = recorder.clock().nanos();
            Outcome outcome = connect(backOff);
            if (recorder.clock().nanos() - beganNs > STOOD_S * 1e9) {
                backOff.reset();
            }
            if (outcome.isRejoin) {
                continue;
            }
            if (outcome.ended != null) {
                backOff.pause(address, outcome.ended);
            } else if (outcome.leaveS <= 0) {
                return;
            } else {
                backOff.leave(outcome.leaveS);
            }
        }
    }

    /** How one connection ended: told to leave, broken, or better made anew. */
    private static final class Outcome {
        private static final Outcome REJOIN = new Outcome(0, null, true);

        private final long leaveS;
        private final Status ended;
        private final boolean isRejoin;

        private Outcome(long leaveS, Status ended, boolean isRejoin) {
            this.leaveS = leaveS;
            this.ended = ended;
            this.isRejoin = isRejoin;
        }
    }

    private Outcome connect(BackOff backOff) throws InterruptedException {
        ManagedChannel channel = channel();
        try {
            if (!isAnswered(channel)) {
                Status silent = Status.UNAVAILABLE.withDescription("nobody spoke HTTP/2 within " + CONNECT_S + " s");
                return new Outcome(0, silent, false);
            }
            return serve(new Join(channel, told, maxMessageBytes, recorder.clock()), backOff);
        } finally {
            channel.shutdownNow();
        }
    }

    /**
     * Whether an attempt to connect succeeded or failed; a socket that takes a connection and says nothing does
     * neither.
     */
    private static boolean isAnswered(ManagedChannel channel) throws InterruptedException {
        long deadlineNs = System.nanoTime() + Math.round(CONNECT_S * 1e9);
        ConnectivityState state = channel.getState(true);
        while (state == ConnectivityState.IDLE || state == ConnectivityState.CONNECTING) {
            CountDownLatch changed = new CountDownLatch(1);
            channel.notifyWhenStateChanged(state, changed::countDown);
            if (!changed.await(deadlineNs - System.nanoTime(), TimeUnit.NANOSECONDS)) {
                return false;
            }
            state = channel.getState(true);
        }
        return true;
    }

    private Outcome serve(Join join, BackOff backOff) throws InterruptedException {
        Responder responder = new Responder(client, recorder, tensorType, maxMessageBytes);
        try {
            while (true) {
                Join.Event event = join.take();
                if (event.ended != null) {
                    checkSize(event.ended, join);
                    return new Outcome(0, event.ended, false);
                }
                backOff.reset();
                if (learnsHeartbeat(join)) {
                    return Outcome.REJOIN;
                }
                Responder.Response response = responder.answer(event.instruction, event.receivedNs);
                join.reply(response.data);
                if (response.leaveS.isPresent()) {
                    part(join);
                    return new Outcome(response.leaveS.getAsLong(), null, false);
                }
            }
        } finally {
            responder.close();
            join.cancel();
        }
    }

    /** A message that is too large for one side will be so again: coming back would not help. */
    private void checkSize(Status ended, Join join) {
        if (ended.getCode() == Status.Code.RESOURCE_EXHAUSTED && join.hasHeaders()) {
            throw new FedmeterException.Wire(address + ": a message was too large, of ours for the server or of its for"
                    + " us, who read " + maxMessageBytes + " bytes: " + ended.getDescription() + ".");
        }
    }

    /** Whether the server allows another heartbeat than this connection has: it is an option of a connection. */
    private boolean learnsHeartbeat(Join join) {
        if (device.isEmpty()) {
            return false; // one without a name may be told to train at once, and does not rejoin
        }
        OptionalDouble toldS = heartbeat(join.header(HEARTBEAT_KEY));
        boolean isOther = !toldS.equals(heartbeatS);
        heartbeatS = toldS;
        return isOther;
    }

    /** What a server of ours allows; empty of any other, and where it says nonsense. */
    static OptionalDouble heartbeat(Optional<String> header) {
        try {
            double seconds = Double.parseDouble(header.orElse("NaN"));
            return seconds >= LEAST_HEARTBEAT_S && seconds < STRANGERS_PING_S
                    ? OptionalDouble.of(seconds) : OptionalDouble.empty();
        } catch (NumberFormatException nonsense) {
            return OptionalDouble.empty();
        }
    }

    /** Ends our half and waits until the server has the goodbye, but not for ever. */
    private static void part(Join join) throws InterruptedException {
        join.complete();
        Join.Event event = join.poll(GOODBYE_S);
        while (event != null && event.ended == null) {
            event = join.poll(GOODBYE_S);
        }
    }

    /** A ping after a third of the heartbeat without a byte (gRPC for Java: at least 10 s), two thirds to answer it. */
    private ManagedChannel channel() {
        double pingS = heartbeatS.isPresent() ? heartbeatS.getAsDouble() / 3 : STRANGERS_PING_S;
        double pongS = heartbeatS.isPresent() ? heartbeatS.getAsDouble() * 2 / 3 : STRANGERS_PONG_S;
        return channels.builder(address, security)
                .keepAliveTime(Math.round(pingS * 1e3), TimeUnit.MILLISECONDS)
                .keepAliveTimeout(Math.round(pongS * 1e3), TimeUnit.MILLISECONDS)
                .maxInboundMetadataSize(MAX_METADATA_BYTES)
                .disableRetry()
                .build();
    }

    private Metadata metadata() {
        Metadata metadata = new Metadata();
        if (!device.isEmpty()) {
            metadata.put(Metadata.Key.of("fedmeter-device", Metadata.ASCII_STRING_MARSHALLER), device);
        }
        String instance = String.format("%032x", new BigInteger(128, new SecureRandom()));
        metadata.put(Metadata.Key.of("fedmeter-instance", Metadata.ASCII_STRING_MARSHALLER), instance);
        security.bearer().ifPresent(bearer ->
                metadata.put(Metadata.Key.of("authorization", Metadata.ASCII_STRING_MARSHALLER), bearer));
        return metadata;
    }
}
