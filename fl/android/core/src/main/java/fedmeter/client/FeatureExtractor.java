package fedmeter.client;

import java.util.Arrays;

/**
 * A frozen base model: the pixels of an image to features, prepared as {@code fl/workloads/features.py} prepares them
 * for the same weights. A platform resizes images in its own way, so that features of one image differ a little between
 * Python and a phone.
 */
public final class FeatureExtractor {
    private static final float[] MEAN = {0.485f, 0.456f, 0.406f}; // of ImageNet's pixels in 0..1, red, green, blue
    private static final float[] STD = {0.229f, 0.224f, 0.225f};
    private static final int CHANNELS = 3;
    private static final int MAX_SIDE = 1024;

    /** Runs the base model: float32[1, 3, side, side] or float32[1, side, side, 3], to float32[1, width]. */
    @FunctionalInterface
    public interface Model {
        void run(float[][][][] image, float[][] features);
    }

    private final Model model;
    private final int side;
    private final int width;
    private final boolean hasChannelsFirst;

    /** For the shapes of a model's input and output. Throws Data where they are no extractor's. */
    public FeatureExtractor(Model model, int[] input, int[] output) {
        boolean isImage = input.length == 4 && input[0] == 1 && output.length == 2 && output[0] == 1 && output[1] > 0;
        this.hasChannelsFirst = isImage && input[1] == CHANNELS && input[2] == input[3];
        boolean hasChannelsLast = isImage && input[3] == CHANNELS && input[1] == input[2];
        if (!hasChannelsFirst && !hasChannelsLast || input[2] < 1 || input[2] > MAX_SIDE) {
            throw new FedmeterException.Data("a base model takes float32[1, 3, side, side] or float32[1, side, side, 3]"
                    + " and gives float32[1, width]; this one takes " + Arrays.toString(input) + " and gives "
                    + Arrays.toString(output) + ".");
        }
        this.model = model;
        this.side = input[2];
        this.width = output[1];
    }

    /** The side of the square, in pixels, that images are to be resized to. */
    public int side() {
        return side;
    }

    public int width() {
        return width;
    }

    /** Features of a square whose pixels are 0xAARRGGBB, row by row; alpha is left out. */
    float[] features(int[] pixels) {
        if (pixels.length != side * side) {
            throw new IllegalArgumentException(pixels.length + " pixels are no square of side " + side);
        }
        float[][][][] image = hasChannelsFirst
                ? new float[1][CHANNELS][side][side] : new float[1][side][side][CHANNELS];
        for (int row = 0; row < side; row++) {
            for (int column = 0; column < side; column++) {
                for (int channel = 0; channel < CHANNELS; channel++) {
                    float value = normalised(pixels[row * side + column], channel);
                    if (hasChannelsFirst) {
                        image[0][channel][row][column] = value;
                    } else {
                        image[0][row][column][channel] = value;
                    }
                }
            }
        }
        float[][] features = new float[1][width];
        model.run(image, features);
        return features[0];
    }

    private static float normalised(int pixel, int channel) {
        int value = pixel >> 8 * (CHANNELS - 1 - channel) & 0xff;
        return (value / 255f - MEAN[channel]) / STD[channel];
    }
}
