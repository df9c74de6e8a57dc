package fedmeter.client;

import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.channels.FileChannel;
import java.nio.file.Path;
import java.nio.file.StandardOpenOption;

/** What is trained on: features float32[n, width] and labels[n], each from 0 to classes - 1. */
public final class Examples {
    private static final long MAX_FILE_BYTES = 1L << 30;

    final float[] features;
    final int[] labels;
    final int width;

    /** Throws Data where they do not belong together. */
    public Examples(Tensor features, long[] labels, int classes) {
        int[] shape = features.shape();
        if (shape.length != 2 || shape[0] == 0 || shape[0] != labels.length) {
            throw new FedmeterException.Data(
                    "features " + features.shown() + " and " + labels.length + " labels do not make examples.");
        }
        this.features = features.values();
        this.width = shape[1];
        this.labels = new int[labels.length];
        for (int i = 0; i < labels.length; i++) {
            if (labels[i] < 0 || labels[i] >= classes) {
                throw new FedmeterException.Data("label " + i + " is " + labels[i] + "; there are classes 0 to "
                        + (classes - 1) + ".");
            }
            this.labels[i] = (int) labels[i];
        }
        for (float value : this.features) {
            if (!Float.isFinite(value)) {
                throw new FedmeterException.Data("a feature is " + value + ".");
            }
        }
    }

    /** From two NPY files, float32[n, width] and int64[n]. Throws Data, naming the file. */
    public static Examples read(Path features, Path labels, int classes) {
        return new Examples(readNpy(features, Npy::tensor), readNpy(labels, Npy::longs), classes);
    }

    public int size() {
        return labels.length;
    }

    public int width() {
        return width;
    }

    /** Copies the features of one example. */
    void features(int index, float[] to) {
        System.arraycopy(features, index * width, to, 0, width);
    }

    private static <T> T readNpy(Path path, java.util.function.Function<ByteBuffer, T> parse) {
        try (FileChannel file = FileChannel.open(path, StandardOpenOption.READ)) {
            if (file.size() > MAX_FILE_BYTES) {
                throw new FedmeterException.Data(path + " has " + file.size() + " bytes; at most " + MAX_FILE_BYTES
                        + " are read.");
            }
            ByteBuffer bytes = ByteBuffer.allocate((int) file.size());
            while (bytes.hasRemaining() && file.read(bytes) >= 0) {
                // a read may give less than is there
            }
            bytes.flip();
            return parse.apply(bytes);
        } catch (IOException unreadable) {
            throw new FedmeterException.Data(path + " cannot be read: " + unreadable.getMessage() + ".");
        } catch (FedmeterException.Wire broken) {
            throw new FedmeterException.Data(path + ": " + broken.getMessage());
        }
    }
}
