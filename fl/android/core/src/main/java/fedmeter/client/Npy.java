package fedmeter.client;

import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/**
 * Arrays as NPY 1.0 (numpy/lib/format.py, "Format Version 1.0"): magic, version, little-endian uint16 header length, an
 * ASCII dictionary, the data. Read as hostile: only plain headers, little-endian float32 and int64, C order, and no
 * size that the bytes at hand do not bear out.
 */
final class Npy {
    static final int MAX_RANK = 8;
    static final int MAX_HEADER_BYTES = 1024;

    private static final byte[] MAGIC = {(byte) 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0};
    private static final int PREFIX_BYTES = MAGIC.length + 2;
    private static final int ALIGNMENT = 64; // of the data, as numpy writes it
    private static final Pattern HEADER = Pattern.compile(
            "\\{'descr': '([<>|=][a-z][0-9]{1,2})', 'fortran_order': (False|True), "
                    + "'shape': \\(((?:[0-9]{1,10}, ?)*(?:[0-9]{1,10})?)\\), ?\\} *\\n");

    private Npy() {}

    /** What a header tells, checked against the number of bytes that came. */
    private static final class Header {
        private final String dtype;
        private final int[] shape;
        private final int offset;

        private Header(String dtype, int[] shape, int offset) {
            this.dtype = dtype;
            this.shape = shape;
            this.offset = offset;
        }
    }

    /** A float32 array of any shape. Throws Wire. */
    static Tensor tensor(ByteBuffer bytes) {
        Header header = header(bytes, "<f4", Float.BYTES);
        float[] values = new float[(bytes.remaining() - header.offset) / Float.BYTES];
        data(bytes, header).asFloatBuffer().get(values);
        return new Tensor(header.shape, values);
    }

    /** An int64 array of one dimension. Throws Wire. */
    static long[] longs(ByteBuffer bytes) {
        Header header = header(bytes, "<i8", Long.BYTES);
        if (header.shape.length != 1) {
            throw new FedmeterException.Wire("an array of " + header.shape.length + " dimensions; one is needed.");
        }
        long[] values = new long[header.shape[0]];
        data(bytes, header).asLongBuffer().get(values);
        return values;
    }

    /** The array as an NPY 1.0 file. */
    static ByteBuffer encode(Tensor tensor) {
        StringBuilder header = new StringBuilder("{'descr': '<f4', 'fortran_order': False, 'shape': (");
        int[] shape = tensor.shape();
        for (int i = 0; i < shape.length; i++) {
            header.append(shape[i]).append(i + 1 < shape.length ? ", " : shape.length == 1 ? "," : "");
        }
        header.append("), }");
        while ((PREFIX_BYTES + header.length() + 1) % ALIGNMENT != 0) {
            header.append(' ');
        }
        header.append('\n');
        int offset = PREFIX_BYTES + header.length();
        ByteBuffer file = ByteBuffer.allocate(offset + tensor.values().length * Float.BYTES);
        file.order(ByteOrder.LITTLE_ENDIAN).put(MAGIC).putShort((short) header.length());
        file.put(header.toString().getBytes(StandardCharsets.US_ASCII));
        file.asFloatBuffer().put(tensor.values());
        file.rewind();
        return file;
    }

    private static ByteBuffer data(ByteBuffer bytes, Header header) {
        ByteBuffer data = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN);
        data.position(data.position() + header.offset);
        return data;
    }

    private static Header header(ByteBuffer bytes, String dtype, int itemBytes) {
        Header header = parse(bytes);
        if (!header.dtype.equals(dtype)) {
            throw new FedmeterException.Wire("an array of dtype " + header.dtype + " came; " + dtype + " is needed.");
        }
        long size = itemBytes;
        int left = bytes.remaining() - header.offset;
        for (int length : header.shape) {
            size *= length; // of two factors below 2^31 each, since what is larger than the file ends here
            if (size > Integer.MAX_VALUE) {
                break;
            }
        }
        if (size != left) {
            throw new FedmeterException.Wire("an array needs " + size + " bytes or more; " + left + " came.");
        }
        return header;
    }

    private static Header parse(ByteBuffer bytes) {
        ByteBuffer view = bytes.duplicate().order(ByteOrder.LITTLE_ENDIAN);
        if (view.remaining() < PREFIX_BYTES) {
            throw new FedmeterException.Wire(view.remaining() + " bytes that are no NPY 1.0 file.");
        }
        for (byte expected : MAGIC) {
            if (view.get() != expected) {
                throw new FedmeterException.Wire("not an NPY 1.0 file: it begins otherwise.");
            }
        }
        int headerBytes = Short.toUnsignedInt(view.getShort());
        if (headerBytes > MAX_HEADER_BYTES || headerBytes > view.remaining()) {
            throw new FedmeterException.Wire("an NPY header of " + headerBytes + " bytes, and " + view.remaining()
                    + " came; at most " + MAX_HEADER_BYTES + " are read.");
        }
        byte[] text = new byte[headerBytes];
        view.get(text);
        Matcher header = HEADER.matcher(new String(text, StandardCharsets.ISO_8859_1));
        if (!header.matches() || header.group(2).equals("True")) {
            throw new FedmeterException.Wire("an NPY header that is not of a plain array in C order.");
        }
        return new Header(header.group(1), shape(header.group(3)), PREFIX_BYTES + headerBytes);
    }

    private static int[] shape(String text) {
        List<Integer> sizes = new ArrayList<>();
        for (String size : text.isEmpty() ? new String[0] : text.split(", ?")) {
            long length = Long.parseLong(size);
            if (length > Integer.MAX_VALUE || sizes.size() == MAX_RANK) {
                throw new FedmeterException.Wire("an array of shape (" + text + ") is refused.");
            }
            sizes.add((int) length);
        }
        return sizes.stream().mapToInt(Integer::intValue).toArray();
    }
}
