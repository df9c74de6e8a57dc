package android.widget;

import android.content.Context;

public class EditText extends TextView {
    public EditText(Context context) {
        super(context);
    }

    @Override
    public android.text.Editable getText() {
        throw new UnsupportedOperationException();
    }
}
