package fedmeter.client;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.Locale;
import java.util.stream.Collectors;
import java.util.stream.Stream;

/**
 * Labelled images in folders {@code CLASS/*.jpg}. Labels follow from {@code classes.txt} beside the folders, a name a
 * line: a phone that lacks a class must count the others as everybody does. Without that file every class is there.
 */
public final class ImageFolder {
    private static final int MAX_IMAGES = 20_000; // 100 MB of features
    private static final int MAX_CLASSES = 65_536;
    private static final long MAX_LIST_BYTES = 1 << 20;

    /** Pixels 0xAARRGGBB of a file, resized to a square. Throws Data, naming the file. */
    @FunctionalInterface
    public interface Decoder {
        int[] square(Path image, int side);
    }

    private ImageFolder() {}

    /** Features and labels of all images, in the order of names. Throws Data where they are no labelled images. */
    public static Examples examples(Path folder, int classes, Decoder decoder, FeatureExtractor extractor) {
        List<String> names = names(folder, classes);
        List<Path> images = new ArrayList<>();
        List<Integer> labels = new ArrayList<>();
        for (Path place : children(folder)) {
            if (Files.isDirectory(place)) {
                int label = names.indexOf(place.getFileName().toString());
                if (label < 0) {
                    throw new FedmeterException.Data(place + " is no class of classes.txt.");
                }
                for (Path image : children(place)) {
                    images.add(image);
                    labels.add(label);
                }
            }
        }
        if (images.isEmpty() || images.size() > MAX_IMAGES) {
            throw new FedmeterException.Data(
                    folder + " holds " + images.size() + " images; it takes 1 to " + MAX_IMAGES + ".");
        }
        float[] features = new float[images.size() * extractor.width()];
        for (int i = 0; i < images.size(); i++) {
            float[] made = extractor.features(decoder.square(images.get(i), extractor.side()));
            System.arraycopy(made, 0, features, i * made.length, made.length);
        }
        Tensor tensor = new Tensor(new int[] {images.size(), extractor.width()}, features);
        return new Examples(tensor, labels.stream().mapToLong(Integer::longValue).toArray(), classes);
    }

    private static List<String> names(Path folder, int classes) {
        Path list = folder.resolve("classes.txt");
        List<String> names;
        try {
            if (Files.exists(list)) {
                if (Files.size(list) > MAX_LIST_BYTES) {
                    throw new FedmeterException.Data(list + " is larger than a list of classes.");
                }
                names = Files.readAllLines(list).stream().map(String::trim).filter(line -> !line.isEmpty())
                        .collect(Collectors.toList());
            } else {
                names = children(folder).stream().filter(Files::isDirectory)
                        .map(place -> place.getFileName().toString()).collect(Collectors.toList());
            }
        } catch (IOException unreadable) {
            throw new FedmeterException.Data(list + " cannot be read: " + unreadable.getMessage() + ".");
        }
        if (names.size() != classes) {
            throw new FedmeterException.Data(folder + " has " + names.size() + " classes; there should be " + classes
                    + ", each in a line of classes.txt.");
        }
        return names;
    }

    /** Folders, and files that end as images do, by name; hidden ones are left out. */
    private static List<Path> children(Path folder) {
        try (Stream<Path> paths = Files.list(folder)) {
            return paths.filter(path -> !path.getFileName().toString().startsWith("."))
                    .filter(path -> Files.isDirectory(path) || isImage(path.getFileName().toString()))
                    .sorted().limit(MAX_IMAGES + MAX_CLASSES).collect(Collectors.toList());
        } catch (IOException unreadable) {
            throw new FedmeterException.Data(folder + " cannot be read: " + unreadable.getMessage() + ".");
        }
    }

    private static boolean isImage(String name) {
        String lower = name.toLowerCase(Locale.ROOT);
        return lower.endsWith(".jpg") || lower.endsWith(".jpeg") || lower.endsWith(".png");
    }
}
