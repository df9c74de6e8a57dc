package fedmeter.client;

import java.io.BufferedOutputStream;
import java.io.DataInputStream;
import java.io.DataOutputStream;
import java.io.IOException;
import java.io.UncheckedIOException;
import java.nio.ByteBuffer;
import java.nio.FloatBuffer;
import java.util.List;
import java.util.Map;

/**
 * A real model's signatures, run by LiteRT in a process of Python's (tests/android/litert_signatures.py): there is
 * no LiteRT for a desktop JVM. Each way: the number of tensors, and of each its name and its NPY bytes, with lengths.
 */
final class LiteRtProcess implements LiteRtHeadTrainer.Signatures, AutoCloseable {
    private final Process process;
    private final DataOutputStream to;
    private final DataInputStream from;

    LiteRtProcess(List<String> command) throws IOException {
        process = new ProcessBuilder(command).redirectError(ProcessBuilder.Redirect.INHERIT).start();
        to = new DataOutputStream(new BufferedOutputStream(process.getOutputStream()));
        from = new DataInputStream(process.getInputStream());
    }

    @Override
    public void run(String signature, Map<String, Object> inputs, Map<String, Object> outputs) {
        try {
            to.writeUTF(signature);
            to.writeInt(inputs.size());
            for (Map.Entry<String, Object> input : inputs.entrySet()) {
                byte[] npy = Npy.encode(tensor(input.getValue())).array();
                to.writeUTF(input.getKey());
                to.writeInt(npy.length);
                to.write(npy);
            }
            to.flush();
            for (int n = from.readInt(); n > 0; n--) {
                Object output = outputs.get(from.readUTF());
                byte[] npy = new byte[from.readInt()];
                from.readFully(npy);
                if (output != null) {
                    fill(output, Npy.tensor(ByteBuffer.wrap(npy)).values());
                }
            }
        } catch (IOException broken) {
            throw new UncheckedIOException(broken);
        }
    }

    /** A buffer has the shape of its tensor, whatever that is: it is sent flat. An array has its own. */
    private static Tensor tensor(Object value) {
        if (value instanceof FloatBuffer) {
            float[] values = ((FloatBuffer) value).array();
            return new Tensor(new int[] {values.length}, values);
        }
        float[][] rows = (float[][]) value;
        float[] values = new float[rows.length * rows[0].length];
        for (int i = 0; i < rows.length; i++) {
            System.arraycopy(rows[i], 0, values, i * rows[0].length, rows[0].length);
        }
        return new Tensor(new int[] {rows.length, rows[0].length}, values);
    }

    private static void fill(Object output, float[] values) {
        if (output instanceof FloatBuffer) {
            ((FloatBuffer) output).put(values);
            return;
        }
        float[][] rows = (float[][]) output;
        for (int i = 0; i < rows.length; i++) {
            System.arraycopy(values, i * rows[i].length, rows[i], 0, rows[i].length);
        }
    }

    @Override
    public void close() throws IOException {
        to.close();
        from.close();
        process.destroy();
    }
}
