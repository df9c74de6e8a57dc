package fedmeter.client;

import com.google.common.io.ByteStreams;
import io.grpc.CallOptions;
import io.grpc.Channel;
import io.grpc.ClientCall;
import io.grpc.ClientInterceptors;
import io.grpc.Metadata;
import io.grpc.MethodDescriptor;
import io.grpc.Status;
import io.grpc.stub.ClientCallStreamObserver;
import io.grpc.stub.ClientCalls;
import io.grpc.stub.ClientResponseObserver;
import io.grpc.stub.MetadataUtils;
import java.io.ByteArrayInputStream;
import java.io.IOException;
import java.io.InputStream;
import java.io.UncheckedIOException;
import java.util.Optional;
import java.util.concurrent.BlockingQueue;
import java.util.concurrent.LinkedBlockingQueue;
import java.util.concurrent.TimeUnit;
import java.util.concurrent.atomic.AtomicReference;

/**
 * One Join stream: instructions out of a queue, one at a time, replies into an observer. gRPC's threads only put what
 * came into the queue; decoding and training are done by the thread that takes it out.
 */
final class Join {
    /** Bytes both ways: what they mean is decoded later, where it is timed and its errors are ours. */
    private static final MethodDescriptor<byte[], byte[]> JOIN = MethodDescriptor.<byte[], byte[]>newBuilder()
            .setType(MethodDescriptor.MethodType.BIDI_STREAMING)
            .setFullMethodName(MethodDescriptor.generateFullMethodName("flwr.proto.FlowerService", "Join"))
            .setRequestMarshaller(new Bytes())
            .setResponseMarshaller(new Bytes())
            .build();

    private final Clock clock;
    private final BlockingQueue<Event> events = new LinkedBlockingQueue<>(); // at most two: see `request`
    private final AtomicReference<Metadata> headers = new AtomicReference<>();
    private final AtomicReference<Metadata> trailers = new AtomicReference<>();
    private ClientCallStreamObserver<byte[]> replies;

    /** An instruction and when the whole of it was there, or how the stream ended. */
    static final class Event {
        final byte[] instruction;
        final long receivedNs;
        final Status ended;

        private Event(byte[] instruction, long receivedNs, Status ended) {
            this.instruction = instruction;
            this.receivedNs = receivedNs;
            this.ended = ended;
        }
    }

    Join(Channel channel, Metadata told, int maxMessageBytes, Clock clock) {
        this.clock = clock;
        Channel telling = ClientInterceptors.intercept(channel, MetadataUtils.newAttachHeadersInterceptor(told),
                MetadataUtils.newCaptureMetadataInterceptor(headers, trailers));
        ClientCall<byte[], byte[]> call = telling.newCall(JOIN,
                CallOptions.DEFAULT.withMaxInboundMessageSize(maxMessageBytes)
                        .withMaxOutboundMessageSize(maxMessageBytes));
        ClientCalls.asyncBidiStreamingCall(call, new Instructions());
    }

    Event take() throws InterruptedException {
        return events.take();
    }

    /** Null where nothing comes in time. */
    Event poll(double seconds) throws InterruptedException {
        return events.poll(Math.round(seconds * 1e3), TimeUnit.MILLISECONDS);
    }

    /** What the server told of itself before its first instruction. */
    Optional<String> header(String name) {
        return Optional.ofNullable(headers.get())
                .map(told -> told.get(Metadata.Key.of(name, Metadata.ASCII_STRING_MARSHALLER)));
    }

    boolean hasHeaders() {
        return headers.get() != null;
    }

    /** Sends a reply and asks for the next instruction. */
    void reply(byte[] data) {
        replies.onNext(data);
        replies.request(1);
    }

    /** Ends our half. */
    void complete() {
        replies.onCompleted();
    }

    void cancel() {
        replies.cancel("this side is done", null);
    }

    /** Takes one message at a time, so that a server that floods fills its own buffers and not ours. */
    private final class Instructions implements ClientResponseObserver<byte[], byte[]> {
        @Override
        public void beforeStart(ClientCallStreamObserver<byte[]> stream) {
            replies = stream;
            stream.disableAutoRequestWithInitial(1);
        }

        @Override
        public void onNext(byte[] instruction) {
            events.add(new Event(instruction, clock.nanos(), null));
        }

        @Override
        public void onError(Throwable broken) {
            events.add(new Event(null, 0, Status.fromThrowable(broken)));
        }

        @Override
        public void onCompleted() {
            events.add(new Event(null, 0, Status.OK));
        }
    }

    private static final class Bytes implements MethodDescriptor.Marshaller<byte[]> {
        @Override
        public InputStream stream(byte[] message) {
            return new ByteArrayInputStream(message);
        }

        @Override
        public byte[] parse(InputStream stream) {
            try {
                return ByteStreams.toByteArray(stream); // bounded by the call's options
            } catch (IOException broken) {
                throw new UncheckedIOException(broken);
            }
        }
    }
}
