package fedmeter.client;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.nio.ByteBuffer;
import java.nio.charset.StandardCharsets;
import java.util.Random;
import org.junit.Test;

/** Arrays as files: what is written is read again, and hostile bytes are a typed error whatever they are. */
public final class NpyTest {
    private static byte[] bytes(Tensor tensor) {
        return Npy.encode(tensor).array();
    }

    private static byte[] withHeader(String header, int dataBytes) {
        ByteBuffer file = ByteBuffer.allocate(10 + header.length() + dataBytes).order(java.nio.ByteOrder.LITTLE_ENDIAN);
        file.put(new byte[] {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0}).putShort((short) header.length());
        file.put(header.getBytes(StandardCharsets.US_ASCII));
        return file.array();
    }

    @Test
    public void whatIsWrittenIsReadAgain() {
        for (int[] shape : new int[][] {{}, {3}, {0}, {2, 3}, {2, 1, 3}}) {
            float[] values = new float[java.util.Arrays.stream(shape).reduce(1, (a, b) -> a * b)];
            for (int i = 0; i < values.length; i++) {
                values[i] = i - 0.5f;
            }
            Tensor read = Npy.tensor(ByteBuffer.wrap(bytes(new Tensor(shape, values))));
            assertArrayEquals(shape, read.shape());
            assertArrayEquals(values, read.values(), 0);
        }
    }

    @Test
    public void everyTruncationIsRefused() {
        byte[] whole = bytes(new Tensor(new int[] {2, 3}, new float[6]));
        for (int n = 0; n < whole.length; n++) {
            ByteBuffer part = ByteBuffer.wrap(whole, 0, n);
            assertThrows(FedmeterException.Wire.class, () -> Npy.tensor(part.slice()));
        }
    }

    @Test
    public void damagedBytesAreReadOrRefusedAndNothingElse() {
        Random random = new Random(1);
        int refused = 0;
        for (int i = 0; i < 20_000; i++) {
            byte[] damaged = bytes(new Tensor(new int[] {2, 3}, new float[6]));
            damaged[random.nextInt(80)] = (byte) random.nextInt();
            try {
                Npy.tensor(ByteBuffer.wrap(damaged));
            } catch (FedmeterException.Wire expected) {
                refused++;
            }
        }
        assertTrue(refused > 10_000);
    }

    @Test
    public void sizesThatOverflowAreRefusedWithoutMemory() {
        for (String shape : new String[] {"2147483647, 2147483647", "65536, 65536, 65536, 65536", "4294967296,",
            "9999999999,", "1, 1, 1, 1, 1, 1, 1, 1, 1", "536870912, 8"}) {
            byte[] file = withHeader("{'descr': '<f4', 'fortran_order': False, 'shape': (" + shape + "), }\n", 4);
            assertThrows(shape, FedmeterException.Wire.class, () -> Npy.tensor(ByteBuffer.wrap(file)));
        }
    }

    @Test
    public void otherArraysAreRefused() {
        for (String header : new String[] {
            "{'descr': '<f8', 'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n",
            "{'descr': '<f4', 'fortran_order': True, 'shape': (1,), }\n",
            "{'descr': '<f4', 'shape': (1,), }\n", "", "\n"}) {
            byte[] file = withHeader(header, 8);
            assertThrows(header, FedmeterException.Wire.class, () -> Npy.tensor(ByteBuffer.wrap(file)));
        }
    }
}
