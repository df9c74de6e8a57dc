package fedmeter.client;

import java.util.Arrays;

/** float32 values in C order. Its arrays are its owner's: nothing is copied here. */
public final class Tensor {
    private final int[] shape;
    private final float[] values;

    /** Throws IllegalArgumentException where shape and number of values contradict each other. */
    public Tensor(int[] shape, float[] values) {
        long size = 1;
        for (int length : shape) {
            size *= length;
        }
        if (size != values.length) {
            throw new IllegalArgumentException(Arrays.toString(shape) + " does not hold " + values.length + " values");
        }
        this.shape = shape;
        this.values = values;
    }

    public int[] shape() {
        return shape;
    }

    public float[] values() {
        return values;
    }

    /** In words, for messages. */
    public String shown() {
        return Arrays.toString(shape);
    }
}
