package fedmeter.client;

import com.google.protobuf.ByteString;
import com.google.protobuf.CodedOutputStream;
import com.google.protobuf.InvalidProtocolBufferException;
import com.google.protobuf.UnsafeByteOperations;
import com.google.protobuf.WireFormat;
import fedmeter.wire.Transport.ClientMessage;
import fedmeter.wire.Transport.Parameters;
import fedmeter.wire.Transport.Scalar;
import fedmeter.wire.Transport.ServerMessage;
import java.io.IOException;
import java.math.BigInteger;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.util.ArrayList;
import java.util.HashMap;
import java.util.List;
import java.util.Map;

/** Messages to bytes and back: pure functions. What came is checked against the bounds that {@code fl/wire} has. */
final class Wire {
    static final int MAX_ENTRIES = 10_000;
    static final int MAX_KEY_CHARS = 1_000;
    static final int MAX_STRING_CHARS = 100_000;
    static final int MAX_TENSORS = 10_000;
    static final int MAX_TEXT_CHARS = 10_000; // of a status message
    static final String NPY = "numpy.ndarray";
    /** The convention of Flower's FedAvgAndroid, sic: float32 values alone, without shapes. */
    static final String RAW = "numpy.nda";

    private static final BigInteger TWO_TO_64 = BigInteger.ONE.shiftLeft(64);

    private Wire() {}

    /** Throws Wire for what is no instruction. */
    static ServerMessage instruction(byte[] data) {
        ServerMessage message;
        try {
            message = ServerMessage.parseFrom(data);
        } catch (InvalidProtocolBufferException broken) {
            throw new FedmeterException.Wire(
                    data.length + " bytes that are no message of the Flower Protocol: " + broken.getMessage());
        }
        if (message.getMsgCase() == ServerMessage.MsgCase.MSG_NOT_SET) {
            throw new FedmeterException.Wire(
                    "an instruction without content, or of a kind that the Flower Protocol does not know.");
        }
        return message;
    }

    /** Throws Wire for a scalar without value or with a longer one than is read. */
    static Config config(Map<String, Scalar> scalars) {
        if (scalars.size() > MAX_ENTRIES) {
            throw new FedmeterException.Wire(scalars.size() + " config entries; at most " + MAX_ENTRIES + " are read.");
        }
        Map<String, Object> values = new HashMap<>();
        scalars.forEach((key, scalar) -> {
            if (key.length() > MAX_KEY_CHARS || scalar.getString().length() > MAX_STRING_CHARS) {
                throw new FedmeterException.Wire("a config key or text longer than is read.");
            }
            values.put(key, value(key, scalar));
        });
        return new Config(values);
    }

    private static Object value(String key, Scalar scalar) {
        switch (scalar.getScalarCase()) {
            case DOUBLE:
                return scalar.getDouble();
            case SINT64:
                return scalar.getSint64();
            case UINT64:
                BigInteger signed = BigInteger.valueOf(scalar.getUint64());
                return signed.signum() < 0 ? signed.add(TWO_TO_64) : signed;
            case BOOL:
                return scalar.getBool();
            case STRING:
                return scalar.getString();
            case BYTES:
                return scalar.getBytes().toByteArray();
            default:
                throw new FedmeterException.Wire(key + " has no value, or one of a type that is not known.");
        }
    }

    /** Throws Usage for a value that the wire does not carry. */
    static Map<String, Scalar> scalars(Map<String, ?> values) {
        Map<String, Scalar> scalars = new HashMap<>();
        values.forEach((key, value) -> scalars.put(key, scalar(key, value)));
        return scalars;
    }

    private static Scalar scalar(String key, Object value) {
        Scalar.Builder scalar = Scalar.newBuilder();
        if (value instanceof Boolean) {
            return scalar.setBool((Boolean) value).build();
        }
        if (value instanceof Long || value instanceof Integer) {
            return scalar.setSint64(((Number) value).longValue()).build();
        }
        if (value instanceof Double) {
            return scalar.setDouble((Double) value).build();
        }
        if (value instanceof String) {
            return scalar.setString((String) value).build();
        }
        if (value instanceof byte[]) {
            return scalar.setBytes(UnsafeByteOperations.unsafeWrap((byte[]) value)).build();
        }
        throw new FedmeterException.Usage(
                key + " is of a type that the Flower Protocol does not carry.",
                "Use Boolean, Long, Double, String, byte[].");
    }

    /** Tensors, in the shapes of {@code model} where they came raw. Throws Wire, naming the tensor by its place. */
    static List<Tensor> tensors(Parameters parameters, List<Tensor> model) {
        int n = parameters.getTensorsCount();
        boolean isRaw = parameters.getTensorType().equals(RAW);
        if (n > MAX_TENSORS || isRaw && n != model.size()) {
            throw new FedmeterException.Wire(n + " tensors came; the model has " + model.size() + ".");
        }
        if (n > 0 && !isRaw && !parameters.getTensorType().equals(NPY)) {
            throw new FedmeterException.Wire("tensors of another type than " + NPY + " and " + RAW + " came.");
        }
        List<Tensor> tensors = new ArrayList<>();
        for (int i = 0; i < n; i++) {
            ByteBuffer bytes = parameters.getTensors(i).asReadOnlyByteBuffer();
            try {
                tensors.add(isRaw ? raw(bytes, model.get(i).shape()) : Npy.tensor(bytes));
            } catch (FedmeterException.Wire broken) {
                throw new FedmeterException.Wire("tensor " + i + ": " + broken.getMessage());
            }
        }
        return tensors;
    }

    private static Tensor raw(ByteBuffer bytes, int[] shape) {
        int size = 1;
        for (int length : shape) {
            size *= length;
        }
        if (bytes.remaining() != (long) size * Float.BYTES) {
            throw new FedmeterException.Wire(bytes.remaining() + " bytes; float32 of its shape needs "
                    + 4L * size + ".");
        }
        float[] values = new float[size];
        bytes.order(ByteOrder.LITTLE_ENDIAN).asFloatBuffer().get(values);
        return new Tensor(shape, values);
    }

    /** In the encoding {@code type}, one of NPY and RAW. */
    static Parameters parameters(List<Tensor> tensors, String type) {
        Parameters.Builder parameters = Parameters.newBuilder().setTensorType(type);
        for (Tensor tensor : tensors) {
            ByteBuffer bytes = type.equals(RAW) ? rawBytes(tensor) : Npy.encode(tensor);
            parameters.addTensors(UnsafeByteOperations.unsafeWrap(bytes));
        }
        return parameters.build();
    }

    private static ByteBuffer rawBytes(Tensor tensor) {
        ByteBuffer bytes = ByteBuffer.allocate(tensor.values().length * Float.BYTES).order(ByteOrder.LITTLE_ENDIAN);
        bytes.asFloatBuffer().put(tensor.values());
        return bytes;
    }

    /**
     * One ClientMessage of a body that was serialised before its last metrics were known. In protobuf's encoding the
     * concatenation of two serialised messages is the serialisation of their merge.
     */
    static byte[] joined(ClientMessage.MsgCase field, ByteString body, ByteString tail) {
        ByteString.Output prefix = ByteString.newOutput();
        try {
            CodedOutputStream out = CodedOutputStream.newInstance(prefix);
            out.writeTag(field.getNumber(), WireFormat.WIRETYPE_LENGTH_DELIMITED);
            out.writeUInt32NoTag(Math.addExact(body.size(), tail.size()));
            out.flush();
        } catch (IOException never) {
            throw new IllegalStateException("a buffer in memory was not written", never);
        }
        return prefix.toByteString().concat(body).concat(tail).toByteArray();
    }
}
