package fedmeter.client;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.List;
import java.util.Random;

/** The sizes of a two-layer head, and its tensors as they travel: w1, b1, w2, b2, weights [out, in] as in PyTorch. */
public final class HeadShape {
    final int inputs;
    final int hidden;
    final int classes;
    final int[][] shapes;

    /** Throws Usage where such a head is none. */
    public HeadShape(int inputs, int hidden, int classes) {
        if (inputs < 1 || hidden < 1 || classes < 2) {
            throw new FedmeterException.Usage("a head of " + inputs + "-" + hidden + "-" + classes + " is none.");
        }
        this.inputs = inputs;
        this.hidden = hidden;
        this.classes = classes;
        this.shapes = new int[][] {{hidden, inputs}, {hidden}, {classes, hidden}, {classes}};
    }

    float[][] zeros() {
        return new float[][] {
            new float[Math.multiplyExact(hidden, inputs)], new float[hidden],
            new float[Math.multiplyExact(classes, hidden)], new float[classes],
        };
    }

    /** Uniform in +-1/sqrt(fan in), as in the Python workload, but not the same numbers. */
    List<Tensor> initial(long seed) {
        Random random = new Random(seed);
        float[][] weights = zeros();
        for (int i = 0; i < weights.length; i++) {
            double bound = 1 / Math.sqrt(i < 2 ? inputs : hidden);
            for (int j = 0; j < weights[i].length; j++) {
                weights[i][j] = (float) ((2 * random.nextDouble() - 1) * bound);
            }
        }
        return tensors(weights);
    }

    /** These values, in their shapes. */
    List<Tensor> tensors(float[][] values) {
        List<Tensor> tensors = new ArrayList<>();
        for (int i = 0; i < values.length; i++) {
            tensors.add(new Tensor(shapes[i], values[i]));
        }
        return tensors;
    }

    /** Throws Usage where number or shapes are not this head's. */
    void check(List<Tensor> tensors) {
        boolean fits = tensors.size() == shapes.length;
        for (int i = 0; fits && i < shapes.length; i++) {
            fits = Arrays.equals(tensors.get(i).shape(), shapes[i]);
        }
        if (!fits) {
            throw new FedmeterException.Usage("the head's tensors have shapes " + Arrays.deepToString(shapes) + "; got "
                    + Arrays.deepToString(tensors.stream().map(Tensor::shape).toArray()) + ".");
        }
    }

    /** Throws Data where examples have another width. */
    void check(Examples examples) {
        if (examples.width != inputs) {
            throw new FedmeterException.Data(
                    "examples of " + examples.width + " features, and a head of " + inputs + ".");
        }
    }
}
