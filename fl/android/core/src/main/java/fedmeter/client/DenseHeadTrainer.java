package fedmeter.client;

import java.util.Arrays;
import java.util.List;

/**
 * Linear, ReLU, Linear with softmax cross-entropy and SGD with momentum: the head of the workload office31-mobilenetv2,
 * with PyTorch's layout (weights [out, in]) and update: v = 0.9 v + g, w = w - lr v. For one thread.
 */
public final class DenseHeadTrainer implements HeadTrainer {
    private static final float MOMENTUM = 0.9f; // of fl/workloads/training.py

    private final int inputs;
    private final int hidden;
    private final int classes;
    private final HeadShape shape;
    private final float[][] weights;
    private final float[][] gradients;
    private final float[][] velocities;
    private float[][] starts;
    private float lr;
    private float proximalMu;

    /** Begins with the weights that follow from a seed: {@link HeadShape#initial}. */
    public DenseHeadTrainer(int inputs, int hidden, int classes, long seed) {
        this(new HeadShape(inputs, hidden, classes), seed);
    }

    DenseHeadTrainer(HeadShape shape, long seed) {
        this.shape = shape;
        this.inputs = shape.inputs;
        this.hidden = shape.hidden;
        this.classes = shape.classes;
        this.weights = shape.zeros();
        this.gradients = shape.zeros();
        this.velocities = shape.zeros();
        restore(shape.initial(seed));
    }

    @Override
    public List<Tensor> weights() {
        return shape.tensors(Arrays.stream(weights).map(float[]::clone).toArray(float[][]::new));
    }

    @Override
    public void restore(List<Tensor> tensors) {
        shape.check(tensors);
        for (int i = 0; i < weights.length; i++) {
            System.arraycopy(tensors.get(i).values(), 0, weights[i], 0, weights[i].length);
        }
    }

    @Override
    public void begin(double lr, double proximalMu) {
        this.lr = (float) lr;
        this.proximalMu = (float) proximalMu;
        for (float[] velocity : velocities) {
            Arrays.fill(velocity, 0);
        }
        starts = proximalMu == 0 ? null : Arrays.stream(weights).map(float[]::clone).toArray(float[][]::new);
    }

    @Override
    public Score step(Examples examples, int[] indices) {
        for (float[] gradient : gradients) {
            Arrays.fill(gradient, 0);
        }
        float[] activations = new float[hidden];
        float[] logits = new float[classes];
        double lossSum = 0;
        int hits = 0;
        for (int index : indices) {
            int label = examples.labels[index];
            forward(examples, index, activations, logits);
            hits += argmax(logits) == label ? 1 : 0;
            lossSum += crossEntropyToGradient(logits, label, indices.length);
            backward(examples, index, activations, logits);
        }
        update();
        return new Score(lossSum / indices.length, hits, indices.length);
    }

    @Override
    public Score evaluate(Examples examples) {
        float[] activations = new float[hidden];
        float[] logits = new float[classes];
        double lossSum = 0;
        int hits = 0;
        for (int index = 0; index < examples.size(); index++) {
            forward(examples, index, activations, logits);
            hits += argmax(logits) == examples.labels[index] ? 1 : 0;
            lossSum += crossEntropyToGradient(logits, examples.labels[index], 1);
        }
        return new Score(lossSum / examples.size(), hits, examples.size());
    }

    private void forward(Examples examples, int index, float[] activations, float[] logits) {
        int row = index * inputs;
        for (int j = 0; j < hidden; j++) {
            float sum = weights[1][j] + dot(weights[0], j * inputs, examples.features, row, inputs);
            activations[j] = Math.max(0, sum);
        }
        for (int k = 0; k < classes; k++) {
            logits[k] = weights[3][k] + dot(weights[2], k * hidden, activations, 0, hidden);
        }
    }

    /** The loss of one example; its logits become the gradient of the batch's mean loss by them. */
    private static double crossEntropyToGradient(float[] logits, int label, int batch) {
        float max = logits[argmax(logits)];
        double sum = 0;
        for (float logit : logits) {
            sum += Math.exp(logit - max);
        }
        double loss = Math.log(sum) - (logits[label] - max);
        for (int k = 0; k < logits.length; k++) {
            double probability = Math.exp(logits[k] - max) / sum;
            logits[k] = (float) ((probability - (k == label ? 1 : 0)) / batch);
        }
        return loss;
    }

    /** Adds one example's part to the gradients. */
    private void backward(Examples examples, int index, float[] activations, float[] logitGradients) {
        float[] hiddenGradients = new float[hidden];
        for (int k = 0; k < classes; k++) {
            float gradient = logitGradients[k];
            gradients[3][k] += gradient;
            addScaled(gradients[2], k * hidden, gradient, activations, 0, hidden);
            addScaled(hiddenGradients, 0, gradient, weights[2], k * hidden, hidden);
        }
        for (int j = 0; j < hidden; j++) {
            if (activations[j] > 0) {
                gradients[1][j] += hiddenGradients[j];
                addScaled(gradients[0], j * inputs, hiddenGradients[j], examples.features, index * inputs, inputs);
            }
        }
    }

    private void update() {
        for (int i = 0; i < weights.length; i++) {
            float[] weight = weights[i];
            float[] gradient = gradients[i];
            float[] velocity = velocities[i];
            if (starts != null) {
                for (int j = 0; j < weight.length; j++) {
                    gradient[j] += proximalMu * (weight[j] - starts[i][j]);
                }
            }
            for (int j = 0; j < weight.length; j++) {
                velocity[j] = MOMENTUM * velocity[j] + gradient[j];
                weight[j] -= lr * velocity[j];
            }
        }
    }

    /** Four sums side by side: one alone would wait for each addition, and compilers do not reorder those of floats. */
    private static float dot(float[] a, int aFrom, float[] b, int bFrom, int n) {
        float sum0 = 0;
        float sum1 = 0;
        float sum2 = 0;
        float sum3 = 0;
        int i = 0;
        for (; i + 3 < n; i += 4) {
            sum0 += a[aFrom + i] * b[bFrom + i];
            sum1 += a[aFrom + i + 1] * b[bFrom + i + 1];
            sum2 += a[aFrom + i + 2] * b[bFrom + i + 2];
            sum3 += a[aFrom + i + 3] * b[bFrom + i + 3];
        }
        for (; i < n; i++) {
            sum0 += a[aFrom + i] * b[bFrom + i];
        }
        return (sum0 + sum1) + (sum2 + sum3);
    }

    private static void addScaled(float[] to, int toFrom, float scale, float[] from, int fromFrom, int n) {
        for (int i = 0; i < n; i++) {
            to[toFrom + i] += scale * from[fromFrom + i];
        }
    }

    static int argmax(float[] values) {
        int best = 0;
        for (int i = 1; i < values.length; i++) {
            best = values[i] > values[best] ? i : best;
        }
        return best;
    }
}
