package fedmeter.app;

import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import fedmeter.client.FedmeterException;
import java.nio.file.Path;

/** Image files to pixels. */
final class Bitmaps {
    private static final long MAX_PIXELS = 50_000_000; // as in fl/datasets/images.py

    private Bitmaps() {}

    /** 0xAARRGGBB of the image, resized to a square. Throws Data, naming the file. */
    static int[] square(Path image, int side) {
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inJustDecodeBounds = true;
        BitmapFactory.decodeFile(image.toString(), options);
        if (options.outWidth < 1 || options.outHeight < 1
                || (long) options.outWidth * options.outHeight > MAX_PIXELS) {
            throw new FedmeterException.Data(image + " is no image, or one of more than " + MAX_PIXELS + " pixels.");
        }
        options.inJustDecodeBounds = false;
        options.inSampleSize = Math.max(1, Math.min(options.outWidth, options.outHeight) / (2 * side));
        Bitmap decoded = BitmapFactory.decodeFile(image.toString(), options);
        if (decoded == null) {
            throw new FedmeterException.Data(image + " cannot be decoded.");
        }
        Bitmap scaled = Bitmap.createScaledBitmap(decoded, side, side, true);
        int[] pixels = new int[side * side];
        scaled.getPixels(pixels, 0, side, 0, 0, side, side);
        scaled.recycle();
        decoded.recycle();
        return pixels;
    }
}
