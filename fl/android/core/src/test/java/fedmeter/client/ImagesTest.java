package fedmeter.client;

import static org.junit.Assert.assertArrayEquals;
import static org.junit.Assert.assertEquals;
import static org.junit.Assert.assertThrows;
import static org.junit.Assert.assertTrue;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.Arrays;
import org.junit.Rule;
import org.junit.Test;
import org.junit.rules.TemporaryFolder;

/** Images in folders to examples, by a base model that gives the mean of each channel. */
public final class ImagesTest {
    private static final int SIDE = 2;

    @Rule
    public final TemporaryFolder folder = new TemporaryFolder();

    private static FeatureExtractor means(boolean hasChannelsFirst) {
        FeatureExtractor.Model model = (image, features) -> {
            for (int channel = 0; channel < 3; channel++) {
                float sum = 0;
                for (int i = 0; i < SIDE * SIDE; i++) {
                    int row = i / SIDE;
                    int column = i % SIDE;
                    sum += hasChannelsFirst ? image[0][channel][row][column] : image[0][row][column][channel];
                }
                features[0][channel] = sum / (SIDE * SIDE);
            }
        };
        int[] input = hasChannelsFirst ? new int[] {1, 3, SIDE, SIDE} : new int[] {1, SIDE, SIDE, 3};
        return new FeatureExtractor(model, input, new int[] {1, 3});
    }

    private void put(String... names) throws IOException {
        for (String name : names) {
            Path path = folder.getRoot().toPath().resolve(name);
            Files.createDirectories(path.getParent());
            Files.write(path, new byte[0]);
        }
    }

    /** A square of the colour that the name of its file is. */
    private static int[] decoded(Path image, int side) {
        int[] pixels = new int[side * side];
        Arrays.fill(pixels, Integer.parseInt(image.getFileName().toString().substring(0, 6), 16));
        return pixels;
    }

    private Examples examples(int classes) {
        return ImageFolder.examples(folder.getRoot().toPath(), classes, ImagesTest::decoded, means(true));
    }

    @Test
    public void pixelsAreNormalisedAsInPythonInBothLayouts() {
        int[] pixels = {0xff_ff_00_80, 0xff_ff_00_80, 0xff_ff_00_80, 0xff_ff_00_80};
        // (1 - 0.485) / 0.229, (0 - 0.456) / 0.224, (128 / 255 - 0.406) / 0.225
        float[] expected = {2.2489083f, -2.0357143f, 0.4264924f};
        assertArrayEquals(expected, means(true).features(pixels), 1e-6f);
        assertArrayEquals(expected, means(false).features(pixels), 1e-6f);
        assertThrows(IllegalArgumentException.class, () -> means(true).features(new int[3]));
    }

    @Test
    public void modelsOfOtherShapesAreRefused() {
        for (int[] input : new int[][] {{1, 3, 4, 5}, {2, 3, 4, 4}, {1, 4, 4, 4}, {3, 4, 4}, {1, 3, 2000, 2000}}) {
            assertThrows(FedmeterException.Data.class,
                    () -> new FeatureExtractor((i, f) -> { }, input, new int[] {1, 3}));
        }
        int[] good = {1, 3, 4, 4};
        assertThrows(FedmeterException.Data.class, () -> new FeatureExtractor((i, f) -> { }, good, new int[] {3}));
    }

    @Test
    public void labelsFollowTheListOfClasses() throws IOException {
        put("mug/000000.jpg", "mug/ffffff.png", "bike/000001.jpg", "bike/.hidden.jpg", "bike/notes.txt");
        Files.writeString(folder.getRoot().toPath().resolve("classes.txt"), "lamp\nmug\n\nbike\n");
        Examples examples = examples(3);
        assertArrayEquals(new int[] {2, 1, 1}, examples.labels); // bike, then mug, in the order of names
        assertEquals(3, examples.width());
        assertTrue(examples.features[3] < 0 && examples.features[6] > 0); // black, then white
    }

    @Test
    public void whatIsNoSetOfLabelledImagesIsRefused() throws IOException {
        put("mug/000000.jpg", "bike/000000.jpg");
        assertEquals(2, examples(2).size());
        assertThrows(FedmeterException.Data.class, () -> examples(3));
        Files.writeString(folder.getRoot().toPath().resolve("classes.txt"), "lamp\nmug\n");
        String why = assertThrows(FedmeterException.Data.class, () -> examples(2)).getMessage();
        assertTrue(why, why.contains("bike is no class"));
    }
}
